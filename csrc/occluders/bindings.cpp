#include "bindings.h"

#include <pybind11/numpy.h>

#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "mesh.h"
#include "rgba.h"

namespace py = pybind11;

namespace {

using namespace facex::occluders;
using Bytes = py::array_t<std::uint8_t, py::array::c_style>;
using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Ints = py::array_t<std::int32_t, py::array::c_style | py::array::forcecast>;

constexpr int kLargest = 1 << 14;  // a side in pixels; twice this in both directions stays within an int

void expect(bool ok, const char* what) {
  if (!ok) throw std::invalid_argument(std::string("occluders: ") + what);
}

void expect_rgba(const Bytes& asset) {
  expect(asset.ndim() == 3 && asset.shape(2) == kRgba, "an asset must be uint8 [h, w, 4]");
  expect(asset.shape(0) > 0 && asset.shape(1) > 0 && asset.shape(0) <= kLargest && asset.shape(1) <= kLargest,
         "an asset must have 1 to 16384 pixels a side");
}

// A picture and its mask, which are written in place.
struct Canvas {
  std::uint8_t *image, *mask;
  int height, width, channels;

  Canvas(Bytes& picture, Bytes& area) {
    expect(picture.ndim() == 2 || (picture.ndim() == 3 && picture.shape(2) == 3),
           "the picture must be uint8 [H, W, 3] or [H, W]");
    expect(area.ndim() == 2 && area.shape(0) == picture.shape(0) && area.shape(1) == picture.shape(1),
           "the mask must be uint8 [H, W] of the picture's size");
    expect(picture.shape(0) <= kLargest && picture.shape(1) <= kLargest, "a picture has at most 16384 pixels a side");
    image = picture.mutable_data();
    mask = area.mutable_data();
    height = static_cast<int>(picture.shape(0));
    width = static_cast<int>(picture.shape(1));
    channels = picture.ndim() == 3 ? 3 : 1;
  }
};

py::array_t<std::uint8_t> resize(const Bytes& asset, int width, int height) {
  expect_rgba(asset);
  expect(width > 0 && height > 0 && width <= kLargest && height <= kLargest, "the new sides must be 1 to 16384 pixels");
  py::array_t<std::uint8_t> out({height, width, kRgba});
  std::uint8_t* target = out.mutable_data();
  {
    py::gil_scoped_release release;
    resize_rgba(asset.data(), static_cast<int>(asset.shape(0)), static_cast<int>(asset.shape(1)), target, height,
                width);
  }
  return out;
}

void paste(Bytes image, Bytes mask, const Bytes& asset, int x, int y, int hidden) {
  expect_rgba(asset);
  expect(std::abs(x) <= kLargest && std::abs(y) <= kLargest, "a place must lie within 16384 pixels");
  const Canvas canvas(image, mask);
  py::gil_scoped_release release;
  paste_rgba(canvas.image, canvas.channels, canvas.mask, canvas.height, canvas.width, asset.data(),
             static_cast<int>(asset.shape(0)), static_cast<int>(asset.shape(1)), x, y, hidden);
}

void render(Bytes image, Bytes mask, const Floats& vertices, const Floats& uv, const Ints& triangles,
            const Floats& texture, const Floats& lamp_values, int samples) {
  expect(texture.ndim() == 3 && texture.shape(2) == kRgba && texture.size() > 0 && texture.shape(0) <= kLargest &&
             texture.shape(1) <= kLargest,
         "a texture must be float32 [h, w, 4] of at most 16384 texels a side");
  const Canvas canvas(image, mask);
  expect(vertices.ndim() == 2 && vertices.shape(1) == 3, "vertices must be [V, 3]");
  expect(uv.ndim() == 2 && uv.shape(1) == 2 && uv.shape(0) == vertices.shape(0), "uv must be [V, 2]");
  expect(triangles.ndim() == 2 && triangles.shape(1) == 3, "triangles must be [T, 3]");
  expect(lamp_values.size() == kLampValues, "lamp must have 11 values");
  expect(samples >= 1 && samples <= 4, "samples must be 1 to 4");
  for (py::ssize_t i = 0; i < vertices.size(); ++i)  // NaN is refused too
    expect(std::fabs(vertices.data()[i]) <= 1e6f, "vertices must lie within a million pixels");
  for (py::ssize_t i = 0; i < uv.size(); ++i) expect(std::fabs(uv.data()[i]) <= 16.0f, "uv must lie within -16..16");
  for (py::ssize_t i = 0; i < triangles.size(); ++i)
    expect(triangles.data()[i] >= 0 && triangles.data()[i] < vertices.shape(0), "a triangle names no vertex");
  Lamp lamp;
  static_assert(sizeof(Lamp) == kLampValues * sizeof(float));
  std::memcpy(&lamp, lamp_values.data(), sizeof(Lamp));
  const Mesh mesh{vertices.data(), uv.data(), triangles.data(), static_cast<int>(vertices.shape(0)),
                  static_cast<int>(triangles.shape(0))};
  const Texture cloth{texture.data(), static_cast<int>(texture.shape(0)), static_cast<int>(texture.shape(1))};
  py::gil_scoped_release release;
  render_mesh(canvas.image, canvas.channels, canvas.mask, canvas.height, canvas.width, mesh, cloth, lamp, samples);
}

}  // namespace

void bind_occluders(py::module_& m) {
  m.def("resize_rgba", &resize, py::arg("asset").noconvert(), py::arg("width"), py::arg("height"),
        "uint8 RGBA [h, w, 4] resized to [height, width, 4], to the bit as Pillow's bicubic resize. The GIL is "
        "released.");
  m.def(
      "paste_rgba", &paste, py::arg("image").noconvert(), py::arg("mask").noconvert(), py::arg("asset").noconvert(),
      py::arg("x"), py::arg("y"), py::arg("hidden"),
      "Put RGBA over a picture in place, cut at the edges: its colours where alpha > hidden, mask 255 where alpha > 0. "
      "The GIL is released.");
  m.def("render_mesh", &render, py::arg("image").noconvert(), py::arg("mask").noconvert(), py::arg("vertices"),
        py::arg("uv"), py::arg("triangles"), py::arg("texture").noconvert(), py::arg("lamp"), py::arg("samples"),
        "Draw a textured, lit mesh over a picture in place (csrc/occluders/mesh.h); mask 255 where it covers half a "
        "pixel "
        "or more. lamp: direction 3, ambient, diffuse, plane 3, tint 3. The GIL is released.");
}
