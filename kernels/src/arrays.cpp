#include "arrays.h"

#include <nanobind/stl/string.h>

#include <cmath>

#include "error.h"

namespace nb = nanobind;

namespace guardpass {
namespace {

Dtype dtype_of(nb::dlpack::dtype dtype) {
    using Code = nb::dlpack::dtype_code;
    auto code = static_cast<Code>(dtype.code);
    if (dtype.lanes != 1) return Dtype::other;
    if (code == Code::Bool && dtype.bits == 8) return Dtype::boolean;
    if (code == Code::Int && dtype.bits == 8) return Dtype::i8;
    if (code == Code::Int && dtype.bits == 32) return Dtype::i32;
    if (code == Code::Int && dtype.bits == 64) return Dtype::i64;
    if (code == Code::UInt && dtype.bits == 8) return Dtype::u8;
    if (code == Code::UInt && dtype.bits == 16) return Dtype::bf16;
    if (code == Code::Float && dtype.bits == 16) return Dtype::f16;
    if (code == Code::Float && dtype.bits == 32) return Dtype::f32;
    return Dtype::other;
}

bool contiguous(const AnyArray& array) {
    std::int64_t expected = 1;
    for (std::size_t i = array.ndim(); i-- > 0;) {
        if (array.shape(i) > 1 && array.stride(i) != expected) return false;
        expected *= static_cast<std::int64_t>(array.shape(i));
    }
    return true;
}

std::string text_of(nb::handle object) { return nb::cast<std::string>(nb::repr(object)); }

// Takes the entries of a config one by one; refuses those that are missing, left over, or of another type.
class Entries {
  public:
    explicit Entries(nb::dict dict) : dict_(dict) {}

    nb::object take(const char* name) {
        if (!dict_.contains(name)) refuse("config: ", name, " is missing");
        ++taken_;
        return nb::object(dict_[name]);
    }

    std::int64_t whole(const char* name) { return whole(name, take(name)); }

    std::int64_t whole(const char* name, nb::handle value) {
        std::int64_t result = 0;
        if (!PyLong_Check(value.ptr()) || PyBool_Check(value.ptr()) || !nb::try_cast(value, result))
            refuse("config: ", name, " is ", text_of(value), ", expected a whole number of at most 64 bits");
        return result;
    }

    float real(const char* name) {
        nb::object value = take(name);
        double result = 0;
        bool number = PyFloat_Check(value.ptr()) || (PyLong_Check(value.ptr()) && !PyBool_Check(value.ptr()));
        if (!number || !nb::try_cast(value, result) || std::fabs(result) > 3e38)
            refuse("config: ", name, " is ", text_of(value), ", expected a number");
        return static_cast<float>(result);
    }

    bool flag(const char* name) {
        nb::object value = take(name);
        if (!PyBool_Check(value.ptr())) refuse("config: ", name, " is ", text_of(value), ", expected a bool");
        return value.ptr() == Py_True;
    }

    // Which of two words it is: true for the second.
    bool second(const char* name, const char* one, const char* two) {
        nb::object value = take(name);
        std::string word;
        if (PyUnicode_Check(value.ptr())) nb::try_cast(value, word);
        if (word != one && word != two)
            refuse("config: ", name, " is ", text_of(value), ", expected ", one, " or ", two);
        return word == two;
    }

    void done() const {
        if (taken_ != dict_.size())
            refuse("config has ", dict_.size(), " entries, expected the ", taken_, " of the contract");
    }

  private:
    nb::dict dict_;
    std::size_t taken_ = 0;
};

}  // namespace

Tensor tensor_of(nb::handle object, const char* name, AnyArray& keep) {
    if (!nb::try_cast(object, keep, false))
        refuse(name, " is ", text_of(nb::type_name(object.type())), ", expected an array");
    Tensor tensor;
    tensor.data = keep.data();
    tensor.dtype = dtype_of(keep.dtype());
    for (std::size_t i = 0; i < keep.ndim(); ++i) tensor.shape.push_back(static_cast<std::int64_t>(keep.shape(i)));
    tensor.contiguous = contiguous(keep);
    return tensor;
}

Config config_of(nb::dict dict) {
    Entries from(dict);
    Config c;
    c.layers = from.whole("layers"), c.hidden = from.whole("hidden"), c.heads = from.whole("heads");
    c.kv_heads = from.whole("kv_heads"), c.head_dim = from.whole("head_dim"), c.ffn = from.whole("ffn");
    c.vocab = from.whole("vocab"), c.columns = from.whole("columns"), c.prefix = from.whole("prefix");
    c.context = from.whole("context");
    c.eps = from.real("eps"), c.scale = from.real("scale"), c.embed_scale = from.real("embed_scale");
    c.softcap = from.real("softcap"), c.final_softcap = from.real("final_softcap");
    c.gelu_tanh = from.second("activation", "silu", "gelu_tanh");
    c.int4 = from.second("quant", "int8", "int4");
    c.post_norms = from.flag("post_norms"), c.head_norms = from.flag("head_norms");
    c.residual_block = from.whole("residual_block"), c.ffn_block = from.whole("ffn_block");
    from.whole("heads_block");  // folded into the weights
    nb::object windows = from.take("windows");
    if (!PyList_Check(windows.ptr())) refuse("config: windows is ", text_of(windows), ", expected a list");
    for (nb::handle each : nb::cast<nb::list>(windows)) c.windows.push_back(from.whole("windows", each));
    from.done();
    return c;
}

}  // namespace guardpass
