// facex._C: the Python module. Tensor ops register themselves (ops.cpp, TORCH_LIBRARY) when it is loaded; classes are
// bound here.
#include <pybind11/pybind11.h>

#include "occluders/bindings.h"
#include "recordio/bindings.h"
#include "synth/bindings.h"

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "Compiled part of facex: operators torch.ops.facex.*, the RecordIO reader, the face renderer.";
  m.attr("torch_version") = FACEX_TORCH_VERSION;
#ifdef FACEX_WITH_CUDA
  m.attr("cuda") = true;
#else
  m.attr("cuda") = false;
#endif
  bind_occluders(m);
  bind_recordio(m);
  bind_synth(m);
}
