// NumPy arrays as tensors, and a Python config as ours.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "config.h"
#include "tensor.h"

namespace guardpass {

using AnyArray = nanobind::ndarray<nanobind::ro, nanobind::device::cpu>;
using Scores = nanobind::ndarray<nanobind::numpy, float>;

// A look at the array's memory, which the caller keeps alive. Refuses what is no array of the CPU.
Tensor tensor_of(nanobind::handle object, const char* name, AnyArray& keep);

Config config_of(nanobind::dict dict);

}  // namespace guardpass
