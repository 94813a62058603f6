// The Python module guardpass_kernels._native.
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <memory>
#include <thread>

#include "arrays.h"
#include "error.h"
#include "model.h"

namespace nb = nanobind;

namespace guardpass {

void define_testing(nb::module_& module);

namespace {

// Rows of scores that Python owns.
Scores new_scores(std::size_t rows, std::size_t columns) {
    auto data = std::make_unique<float[]>(rows * columns);
    float* start = data.get();
    nb::capsule owner(data.release(), [](void* p) noexcept { delete[] static_cast<float*>(p); });
    return Scores(start, {rows, columns}, owner);
}

// A model and the arrays it reads.
class PyModel {
  public:
    PyModel(nb::dict config, nb::dict tensors, std::int64_t threads, bool profile) {
        Tensors views;
        for (auto [key, value] : tensors) {
            std::string name;
            if (!nb::try_cast(key, name)) refuse("tensors has a key that is no string");
            views[name] = tensor_of(value, name.c_str(), arrays_.emplace_back());
        }
        int count = threads > 0 && threads < 1 << 20 ? static_cast<int>(threads) : 0;
        model_ = std::make_unique<Model>(config_of(config), views, count, profile);
    }

    Scores run(nb::handle tokens, nb::handle positions, nb::handle slots, nb::handle chain, nb::handle sees,
               Cache* cache, const Stop* stop) {
        AnyArray keep[5];
        Tensor given[5] = {tensor_of(tokens, "tokens", keep[0]), tensor_of(positions, "positions", keep[1]),
                           tensor_of(slots, "slots", keep[2]), tensor_of(chain, "chain", keep[3]),
                           tensor_of(sees, "sees", keep[4])};
        Request request = model_->request(given[0], given[1], given[2], given[3], given[4]);
        Scores scores = new_scores(request.slots.size(), static_cast<std::size_t>(model_->config().columns));
        {
            nb::gil_scoped_release released;
            model_->run(request, scores.data(), cache, stop);
        }
        return scores;
    }

    std::unique_ptr<Cache> cache(std::int64_t capacity) const { return model_->cache(capacity); }

    std::map<std::string, double> profile() {
        Profile taken;
        {
            nb::gil_scoped_release released;
            taken = model_->take_profile();
        }
        std::map<std::string, double> result;
        for (std::size_t i = 0; i < kStageNames.size(); ++i) result[kStageNames[i]] = taken.seconds[i];
        return result;
    }

  private:
    std::vector<AnyArray> arrays_;  // before the model, which points into them
    std::unique_ptr<Model> model_;
};

std::vector<std::string> levels() {
    int count = 0;
    const Kernels* const* table = available(&count);
    std::vector<std::string> names;
    for (int i = 0; i < count; ++i) names.emplace_back(table[i]->level);
    return names;
}

// All threads do dot products for about `seconds`; what each did in its own time is added up.
double peak(std::int64_t threads, double seconds) {
    if (threads < 1 || threads > 1024) refuse("threads is ", threads, ", expected 1 to 1024");
    if (!(seconds > 0 && seconds <= 60)) refuse("seconds is ", seconds, ", expected more than 0 and at most 60");
    const Kernels& chosen = kernels();
    std::vector<double> rates(static_cast<std::size_t>(threads));
    auto measure = [&](double& rate) {
        auto began = std::chrono::steady_clock::now();
        double done = 0, elapsed = 0;
        do {
            done += chosen.spin(1 << 14);
            elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
        } while (elapsed < seconds);
        rate = done / elapsed;
    };
    nb::gil_scoped_release released;
    std::vector<std::thread> others;
    for (std::size_t i = 1; i < rates.size(); ++i) others.emplace_back([&, i] { measure(rates[i]); });
    measure(rates[0]);
    for (std::thread& each : others) each.join();
    double total = 0;
    for (double rate : rates) total += rate;
    return total;
}

}  // namespace

NB_MODULE(_native, module) {
    nb::exception<Stopped>(module, "Stopped");
    nb::class_<Stop>(module, "Stop").def(nb::init<>()).def("set", &Stop::set);
    nb::class_<Cache>(module, "Cache").def_prop_ro("kept", &Cache::kept);
    nb::class_<PyModel>(module, "Model")
        .def(nb::init<nb::dict, nb::dict, std::int64_t, bool>(), nb::arg("config"), nb::arg("tensors"),
             nb::arg("threads"), nb::kw_only(), nb::arg("profile") = false)
        .def("run", &PyModel::run, nb::arg("tokens"), nb::arg("positions"), nb::arg("slots"), nb::arg("chain"),
             nb::arg("sees"), nb::kw_only(), nb::arg("cache") = nb::none(), nb::arg("stop") = nb::none())
        .def("cache", &PyModel::cache, nb::arg("capacity"), nb::keep_alive<0, 1>())
        .def("profile", &PyModel::profile);
    module.def("level", [] { return std::string(kernels().level); });
    module.def("levels", &levels);
    module.def("peak", &peak, nb::arg("threads"), nb::arg("seconds"));
    nb::module_ testing = module.def_submodule("testing");
    define_testing(testing);
}

}  // namespace guardpass
