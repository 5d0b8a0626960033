// Python face of the procedural face renderer.
#pragma once

#include <pybind11/pybind11.h>

void bind_synth(pybind11::module_& m);
