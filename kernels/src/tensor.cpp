#include "tensor.h"

#include <algorithm>

#include "error.h"

namespace guardpass {

const char* name_of(Dtype dtype) {
    switch (dtype) {
        case Dtype::boolean: return "bool";
        case Dtype::i8: return "int8";
        case Dtype::u8: return "uint8";
        case Dtype::i32: return "int32";
        case Dtype::i64: return "int64";
        case Dtype::f16: return "float16";
        case Dtype::bf16: return "bfloat16 (as uint16)";
        case Dtype::f32: return "float32";
        case Dtype::other: break;
    }
    return "another dtype";
}

std::string text_of(const std::vector<std::int64_t>& shape) {
    std::string text = "[";
    for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + "]";
}

const void* checked(const Tensor& tensor, const std::string& name, Dtype dtype,
                    const std::vector<std::int64_t>& shape) {
    if (tensor.dtype != dtype) refuse(name, " is ", name_of(tensor.dtype), ", expected ", name_of(dtype));
    if (tensor.shape != shape) refuse(name, " has shape ", text_of(tensor.shape), ", expected ", text_of(shape));
    if (!tensor.contiguous) refuse(name, " is not contiguous");
    bool empty = std::find(shape.begin(), shape.end(), 0) != shape.end();
    if (tensor.data == nullptr && !empty) refuse(name, " has no data");
    return tensor.data;
}

}  // namespace guardpass
