#pragma once

#include <pybind11/pybind11.h>

// Adds RecordReader, read_index, decode_files, decode_payloads and jpeg_backend to the extension module.
void bind_recordio(pybind11::module_& m);
