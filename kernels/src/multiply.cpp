#include "multiply.h"

namespace guardpass {
namespace {

std::int64_t panel_bytes(const Linear& linear) {
    return linear.nibbles ? linear.depth * kPanel / 2 : linear.depth * kPanel;
}

const void* panel_data(const Linear& linear, std::int64_t panel) {
    if (linear.nibbles) return linear.nibbles + panel * panel_bytes(linear);
    return linear.weight + panel * panel_bytes(linear);
}

}  // namespace

void multiply(const Kernels& kernels, Pool& pool, Arena* scratch, std::initializer_list<Product> products,
              const Linear* following) {
    std::int64_t tasks = 0;
    for (const Product& each : products) tasks += each.linear.panels;
    auto locate = [&](std::int64_t& panel) -> const Product& {
        const Product* product = products.begin();
        while (panel >= product->linear.panels) panel -= (product++)->linear.panels;
        return *product;
    };
    pool.run(tasks, [&](std::int64_t task, std::int64_t next, int worker) {
        std::int64_t index = task;
        const Product& product = locate(index);
        PanelTask panel{&product.linear,
                        index,
                        product.rows,
                        0,
                        product.count,
                        product.out.data,
                        product.out.stride,
                        product.epilogue,
                        nullptr,
                        0,
                        nullptr,
                        nullptr};
        if (next >= 0) {
            const Linear& linear = locate(next).linear;
            panel.prefetch = panel_data(linear, next), panel.prefetch_bytes = panel_bytes(linear);
        } else if (following && worker < following->panels) {
            panel.prefetch = panel_data(*following, worker), panel.prefetch_bytes = panel_bytes(*following);
        }
        scratch[worker].reset(0);
        panel.sums = scratch[worker].cut<std::int32_t>(product.count * kPanel);
        if (product.linear.nibbles) panel.unpacked = scratch[worker].cut<std::int8_t>(product.linear.depth * kPanel);
        kernels.panel(panel);
    });
}

}  // namespace guardpass
