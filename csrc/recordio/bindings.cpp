#include "bindings.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstring>

#include "index.h"
#include "jpeg.h"
#include "reader.h"

namespace py = pybind11;
using namespace facex::recordio;

namespace {

using Offsets = py::array_t<int64_t, py::array::c_style>;

// Takes ownership of a vector's memory: an index of 40 million lines is not copied.
template <typename T>
py::array_t<T> to_numpy(std::vector<T>&& values) {
  auto* kept = new std::vector<T>(std::move(values));
  py::capsule owner(kept, [](void* p) { delete static_cast<std::vector<T>*>(p); });
  return py::array_t<T>(static_cast<py::ssize_t>(kept->size()), kept->data(), owner);
}

py::list to_list(const std::vector<Failure>& failures) {
  py::list list;
  for (const Failure& failure : failures) list.append(py::make_tuple(failure.item, failure.problem));
  return list;
}

[[noreturn]] void fail(const Reader& reader, const std::string& name, const std::exception& error) {
  throw RecordError(reader.path() + (name.empty() ? "" : ": " + name) + ": " + error.what());
}

py::tuple read_bytes(const Reader& reader, uint64_t offset, const std::string& name) {
  try {
    std::vector<uint8_t> joined;
    const Record record = reader.record(offset, joined);
    return py::make_tuple(py::bytes(reinterpret_cast<const char*>(record.bytes.data), record.bytes.size), record.next);
  } catch (const RecordError& error) {
    fail(reader, name, error);
  }
}

py::object parts(const Reader& reader, uint64_t offset, const std::string& name) {
  try {
    return py::cast(reader.parts(offset));
  } catch (const RecordError& error) {
    fail(reader, name, error);
  }
}

py::array_t<int64_t> scan(const Reader& reader, uint64_t start) {
  try {
    std::vector<int64_t> offsets;
    {
      py::gil_scoped_release free;
      offsets = reader.scan(start);
    }
    return to_numpy(std::move(offsets));
  } catch (const RecordError& error) {
    fail(reader, "", error);
  }
}

py::tuple headers(const Reader& reader, const Offsets& offsets, int threads) {
  const py::ssize_t count = offsets.size();
  py::array_t<uint32_t> flag(count);
  py::array_t<float> label0(count), label1(count);
  py::array_t<uint64_t> id(count), id2(count);
  py::array_t<int64_t> payload(count);
  const Headers out{flag.mutable_data(), label0.mutable_data(), label1.mutable_data(),
                    id.mutable_data(),   id2.mutable_data(),    payload.mutable_data()};
  std::vector<Failure> failures;
  try {
    const int64_t* where = offsets.data();
    py::gil_scoped_release free;
    failures = reader.headers(where, count, out, threads);
  } catch (const RecordError& error) {
    fail(reader, "", error);
  }
  return py::make_tuple(flag, label0, label1, id, id2, payload, to_list(failures));
}

// The caller's buffer, uint8 [count, height, width, 3], contiguous and writable.
uint8_t* image_buffer(py::array_t<uint8_t>& out, py::ssize_t count, DecodeOptions& options) {
  if (out.ndim() != 4 || out.shape(0) != count || out.shape(3) != 3 || !(out.flags() & py::array::c_style) ||
      out.shape(1) > 65535 || out.shape(2) > 65535)
    throw py::value_error("out must be a contiguous uint8 array [" + std::to_string(count) + ", height, width, 3]");
  options.height = static_cast<int>(out.shape(1));
  options.width = static_cast<int>(out.shape(2));
  return out.mutable_data();
}

// Runs `decode` without the GIL and returns (status int8 [n], sizes int32 [n, 2], failures).
template <typename Decode>
py::tuple decode_into(py::array_t<uint8_t>& out, py::ssize_t count, bool bgr, bool lenient, uint64_t max_pixels,
                      Decode decode) {
  DecodeOptions options;
  uint8_t* pixels = image_buffer(out, count, options);
  options.bgr = bgr;
  options.lenient = lenient;
  options.max_pixels = max_pixels;
  py::array_t<int8_t> status(count);
  py::array_t<int32_t> sizes(std::vector<py::ssize_t>{count, 2});
  const ImageColumns columns{status.mutable_data(), sizes.mutable_data()};
  std::vector<Failure> failures;
  {
    py::gil_scoped_release free;
    failures = decode(pixels, columns, options);
  }
  return py::make_tuple(status, sizes, to_list(failures));
}

py::tuple decode_records(const Reader& reader, const Offsets& offsets, py::array_t<uint8_t> out, bool bgr, bool lenient,
                         uint64_t max_pixels, int threads) {
  const int64_t* where = offsets.data();
  const py::ssize_t count = offsets.size();
  return decode_into(out, count, bgr, lenient, max_pixels,
                     [&](uint8_t* pixels, const ImageColumns& columns, const DecodeOptions& options) {
                       return reader.decode(where, count, pixels, columns, options, threads);
                     });
}

py::tuple decode_paths(const std::vector<std::string>& paths, py::array_t<uint8_t> out, bool bgr, bool lenient,
                       uint64_t max_pixels, int threads) {
  return decode_into(out, static_cast<py::ssize_t>(paths.size()), bgr, lenient, max_pixels,
                     [&](uint8_t* pixels, const ImageColumns& columns, const DecodeOptions& options) {
                       return decode_files(paths, pixels, columns, options, threads);
                     });
}

py::tuple decode_memory(const std::vector<py::bytes>& payloads, py::array_t<uint8_t> out, bool bgr, bool lenient,
                        uint64_t max_pixels, int threads) {
  std::vector<Bytes> views;
  for (const py::bytes& payload : payloads)
    views.push_back({reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(payload.ptr())),
                     static_cast<uint64_t>(PyBytes_GET_SIZE(payload.ptr()))});
  return decode_into(out, static_cast<py::ssize_t>(views.size()), bgr, lenient, max_pixels,
                     [&](uint8_t* pixels, const ImageColumns& columns, const DecodeOptions& options) {
                       return decode_payloads(views, pixels, columns, options, threads);
                     });
}

py::tuple parse_index(const std::string& path, bool text_keys) {
  Index parsed;
  {
    py::gil_scoped_release free;
    parsed = read_index(path, text_keys);
  }
  if (!text_keys) return py::make_tuple(to_numpy(std::move(parsed.keys)), to_numpy(std::move(parsed.offsets)));
  py::list keys;
  for (const std::string& text : parsed.texts) {
    PyObject* key = PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "strict");
    if (key == nullptr) {
      PyErr_Clear();
      throw RecordError(path + ": bad index: a key is not UTF-8");
    }
    keys.append(py::reinterpret_steal<py::object>(key));
  }
  return py::make_tuple(keys, to_numpy(std::move(parsed.offsets)));
}

void translate(std::exception_ptr pending) {
  try {
    if (pending) std::rethrow_exception(pending);
  } catch (const RecordError& error) {
    // Raised as the one class that the Python side catches and the command line prints. A file name need not be UTF-8.
    const py::object type = py::module_::import("facex.errors").attr("RecordError");
    PyObject* text = PyUnicode_DecodeUTF8(error.what(), static_cast<Py_ssize_t>(std::strlen(error.what())), "replace");
    if (text == nullptr) return;
    PyErr_SetObject(type.ptr(), text);
    Py_DECREF(text);
  }
}

}  // namespace

void bind_recordio(py::module_& m) {
  py::register_local_exception_translator(&translate);

  py::class_<Reader>(m, "RecordReader", "A mapped .rec file, read by offset; safe for threads and after fork.")
      .def(py::init<const std::string&>(), py::arg("path"))
      .def_property_readonly("path", [](const Reader& reader) { return reader.path(); })
      .def_property_readonly("size", &Reader::size, "Bytes of the file when it was opened.")
      .def("read", &read_bytes, py::arg("offset"), py::arg("name") = "", "(record, offset behind it)")
      .def("parts", &parts, py::arg("offset"), py::arg("name") = "", "[(continuation flag, length), ...]")
      .def("scan", &scan, py::arg("start") = 0, "Offsets of all records, int64 [n].")
      .def("headers", &headers, py::arg("offsets"), py::arg("threads") = 1,
           "(flag, label0, label1, id, id2, payload bytes, failures [(item, problem)])")
      .def("decode", &decode_records, py::arg("offsets"), py::arg("out").noconvert(), py::arg("bgr") = false,
           py::arg("lenient") = false, py::arg("max_pixels") = 1u << 24, py::arg("threads") = 1,
           "Pictures into out, uint8 [n, H, W, 3]: (status int8 [n], sizes int32 [n, 2], failures)")
      .def(py::pickle([](const Reader& reader) { return py::make_tuple(reader.path(), reader.size()); },
                      [](const py::tuple& state) {
                        auto reader = std::make_unique<Reader>(state[0].cast<std::string>());
                        if (reader->size() < state[1].cast<uint64_t>())
                          throw RecordError(reader->path() + ": truncated since the reader was made");
                        return reader;
                      }));

  m.def("read_index", &parse_index, py::arg("path"), py::arg("text_keys") = false,
        "(keys, offsets int64 [n]) of an .idx file");
  m.def("decode_files", &decode_paths, py::arg("paths"), py::arg("out").noconvert(), py::arg("bgr") = false,
        py::arg("lenient") = false, py::arg("max_pixels") = 1u << 24, py::arg("threads") = 1,
        "As RecordReader.decode, for picture files.");
  m.def("decode_payloads", &decode_memory, py::arg("payloads"), py::arg("out").noconvert(), py::arg("bgr") = false,
        py::arg("lenient") = false, py::arg("max_pixels") = 1u << 24, py::arg("threads") = 1,
        "As RecordReader.decode, for encoded pictures in memory.");
  m.def("jpeg_backend", &jpeg_backend, "'libjpeg-turbo 2.1.5', or 'opencv' where built without jpeglib.h.");
}
