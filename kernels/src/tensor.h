// An array someone else owns, as it comes from Python.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace guardpass {

enum class Dtype { boolean, i8, u8, i32, i64, f16, bf16, f32, other };

const char* name_of(Dtype dtype);

struct Tensor {
    const void* data = nullptr;
    Dtype dtype = Dtype::other;
    std::vector<std::int64_t> shape;
    bool contiguous = true;
};

using Tensors = std::map<std::string, Tensor>;

std::string text_of(const std::vector<std::int64_t>& shape);

// The data of a tensor that has to be just so; refuses what is not.
const void* checked(const Tensor& tensor, const std::string& name, Dtype dtype, const std::vector<std::int64_t>& shape);

template <class T>
const T* checked_as(const Tensor& tensor, const std::string& name, Dtype dtype,
                    const std::vector<std::int64_t>& shape) {
    return static_cast<const T*>(checked(tensor, name, dtype, shape));
}

}  // namespace guardpass
