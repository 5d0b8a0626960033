// Python face of the occluders' pictures.
#pragma once

#include <pybind11/pybind11.h>

void bind_occluders(pybind11::module_& m);
