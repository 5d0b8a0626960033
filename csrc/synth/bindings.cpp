#include "bindings.h"

#include <pybind11/numpy.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "picture.h"

namespace py = pybind11;

namespace {

using namespace facex::synth;
using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Ints = py::array_t<int, py::array::c_style | py::array::forcecast>;

constexpr int kLayerColumns = 16;  // label, material, group, allow, occlusion, rgb, p
constexpr int kSplatColumns = 9;
constexpr int kLightColumns = 15;
constexpr int kCameraColumns = 7;

void expect(bool ok, const char* what) {
  if (!ok) throw std::invalid_argument(std::string("render: ") + what);
}

std::vector<Layer> read_layers(const Floats& table) {
  expect(table.ndim() == 2 && table.shape(1) == kLayerColumns, "layers must be [L, 16]");
  expect(table.shape(0) >= 1 && table.shape(0) <= 255, "there must be 1 to 255 layers");
  std::vector<Layer> layers(table.shape(0));
  for (py::ssize_t i = 0; i < table.shape(0); ++i) {
    const float* row = table.data(i, 0);
    Layer& layer = layers[i];
    layer.label = static_cast<int>(row[0]);
    expect(layer.label >= -1 && layer.label < kClasses, "a label must be -1 or 0 to 18");
    layer.material = static_cast<int>(row[1]);
    layer.group = static_cast<unsigned>(row[2]);
    layer.allow = static_cast<unsigned>(row[3]);
    layer.occlusion = static_cast<int>(row[4]);
    std::memcpy(layer.rgb, row + 5, sizeof(layer.rgb));
    std::memcpy(layer.p, row + 8, sizeof(layer.p));
  }
  return layers;
}

Light read_light(const Floats& values) {
  expect(values.size() == kLightColumns, "light must have 15 values");
  const float* v = values.data();
  Light light;
  std::memcpy(light.direction, v, 12 * sizeof(float));
  std::memcpy(&light.wrap, v + 12, 3 * sizeof(float));
  return light;
}

py::tuple render(int size, int factor, const Floats& points, const Ints& offsets, const Floats& layer_table,
                 const Floats& vertices, const Floats& albedo, const Floats& light, const Floats& splat_table,
                 const Floats& backdrop, const Floats& camera_values, const Floats& tone, std::uint32_t seed) {
  expect(size >= 16 && size <= 4096 && factor >= 1 && factor <= 16 && size * factor <= 16384,
         "size must be 16..4096, factor 1..16, and their product at most 16384");
  expect(points.ndim() == 2 && points.shape(1) == 2, "points must be [P, 2]");
  expect(vertices.ndim() == 3 && vertices.shape(2) == 3, "vertices must be [R, C, 3]");
  expect(albedo.size() == vertices.size(), "albedo must have the shape of vertices");
  expect(splat_table.ndim() == 2 && splat_table.shape(1) == kSplatColumns, "splats must be [S, 9]");
  expect(backdrop.ndim() == 3 && backdrop.shape(2) == 3 && backdrop.shape(0) > 1 && backdrop.shape(1) > 1,
         "backdrop must be [rows, columns, 3], at least 2 x 2");
  expect(camera_values.size() == kCameraColumns && tone.size() >= 2, "camera must have 7 values and tone at least 2");

  Scene scene;
  scene.layers = read_layers(layer_table);
  scene.light = read_light(light);
  scene.backdrop = backdrop.data();
  scene.backdrop_rows = static_cast<int>(backdrop.shape(0));
  scene.backdrop_columns = static_cast<int>(backdrop.shape(1));
  scene.seed = seed;
  const auto first =
      std::find_if(scene.layers.begin(), scene.layers.end(), [](auto& l) { return l.material == kSkin; });
  expect(first != scene.layers.end(), "there must be a skin layer");
  scene.skin = static_cast<int>(first - scene.layers.begin());
  for (py::ssize_t i = 0; i < points.size(); ++i)  // NaN is refused too; larger ones would overflow on the way
    expect(std::fabs(points.data()[i]) <= 1e6f, "points must lie within a million pixels");
  const auto count = static_cast<py::ssize_t>(scene.layers.size());
  expect(offsets.size() == count + 1 && offsets.at(0) == 0 && offsets.at(count) == points.shape(0),
         "offsets must be [L + 1], from 0 to P");
  for (py::ssize_t i = 0; i < count; ++i) expect(offsets.at(i) <= offsets.at(i + 1), "offsets must not decrease");
  std::vector<Splat> splats(splat_table.shape(0));
  static_assert(sizeof(Splat) == kSplatColumns * sizeof(float));
  std::memcpy(static_cast<void*>(splats.data()), splat_table.data(), splats.size() * sizeof(Splat));
  const float* v = camera_values.data();
  expect(std::fabs(v[4]) <= kFrame && std::fabs(v[5]) <= kFrame, "blur must not exceed the picture");
  const Camera camera{{v[0], v[1], v[2]}, v[3], {v[4], v[5]}, v[6], tone.data(), static_cast<int>(tone.size())};

  py::array_t<std::uint8_t> image({size, size, 3}), parsing({size, size}), occlusion({size, size});
  std::uint8_t *image_data = image.mutable_data(), *parsing_data = parsing.mutable_data(),
               *occlusion_data = occlusion.mutable_data();
  {
    py::gil_scoped_release release;
    static thread_local Workspace work;
    work.grid.reset(size, factor);
    for (py::ssize_t i = 0; i < count; ++i) {  // layer 0 needs no polygon: the grid starts full of it
      const int begin = offsets.data()[i], end = offsets.data()[i + 1];
      work.grid.fill(points.data() + 2 * begin, end - begin, static_cast<int>(i), scene.layers);
    }
    work.grid.labels(parsing_data, occlusion_data);
    draw_surface(vertices.data(), albedo.data(), static_cast<int>(vertices.shape(0)),
                 static_cast<int>(vertices.shape(1)), scene.light, size, work.surface, work.depth);
    take_picture(scene, splats, camera, work, image_data);
  }
  return py::make_tuple(image, parsing, occlusion);
}

}  // namespace

void bind_synth(py::module_& m) {
  m.def("render_layers", &render, py::arg("size"), py::arg("factor"), py::arg("points"), py::arg("offsets"),
        py::arg("layers"), py::arg("vertices"), py::arg("albedo"), py::arg("light"), py::arg("splats"),
        py::arg("backdrop"), py::arg("camera"), py::arg("tone"), py::arg("seed"),
        "Draw a face from layers of polygons, a lit surface, soft spots and a camera (facex/synth/layers.py builds "
        "them). Returns image uint8 RGB [size, size, 3], parsing uint8 [size, size] (CelebAMask-HQ classes), occlusion "
        "uint8 [size, size] (255: occluded). The GIL is released.");
}
