#include "config.h"

#include <cmath>

#include "error.h"
#include "kernels.h"

namespace guardpass {
namespace {

void within(const char* name, std::int64_t value, std::int64_t least, std::int64_t most) {
    if (value < least || value > most) refuse("config: ", name, " is ", value, ", expected ", least, " to ", most);
}

void rotates(const char* name, std::int64_t block, std::int64_t width) {
    if (block < 1 || (block & (block - 1)) != 0 || width % block != 0)
        refuse("config: ", name, " is ", block, ", expected a power of two that divides ", width);
}

void finite(const char* name, float value, bool positive) {
    if (!std::isfinite(value) || value < 0 || (positive && value == 0))
        refuse("config: ", name, " is ", value, ", expected a finite number ", positive ? "above 0" : "from 0");
}

}  // namespace

void check(const Config& c) {
    within("layers", c.layers, 1, 4096);
    within("hidden", c.hidden, 1, kMostWidth);
    within("heads", c.heads, 1, 4096);
    within("kv_heads", c.kv_heads, 1, c.heads);
    within("head_dim", c.head_dim, 2, 1024);
    within("ffn", c.ffn, 1, kMostWidth);
    within("vocab", c.vocab, 1, std::int64_t{1} << 26);
    within("columns", c.columns, 1, kMostWidth);
    within("prefix", c.prefix, 0, kMostTokens);
    within("context", c.context, 1, std::int64_t{1} << 24);
    if (c.heads % c.kv_heads != 0)
        refuse("config: heads is ", c.heads, ", expected a multiple of kv_heads, ", c.kv_heads);
    if (c.heads / c.kv_heads > kMostRows)
        refuse("config: ", c.heads / c.kv_heads, " heads share a key, expected at most ", kMostRows);
    if (c.head_dim % 2 != 0) refuse("config: head_dim is ", c.head_dim, ", expected an even number");
    if (c.heads * c.head_dim > kMostWidth)
        refuse("config: heads x head_dim is ", c.heads * c.head_dim, ", expected at most ", kMostWidth);
    finite("eps", c.eps, false);
    finite("scale", c.scale, true);
    finite("softcap", c.softcap, false);
    finite("final_softcap", c.final_softcap, false);
    finite("embed_scale", c.embed_scale, true);
    rotates("residual_block", c.residual_block, c.hidden);
    rotates("ffn_block", c.ffn_block, c.ffn);
    if (static_cast<std::int64_t>(c.windows.size()) != c.layers)
        refuse("config: windows has ", c.windows.size(), " entries, expected one a layer, ", c.layers);
    for (std::int64_t window : c.windows) within("windows", window, 0, std::int64_t{1} << 40);
}

}  // namespace guardpass
