// facex._C: the Python module. Tensor ops register themselves (ops.cpp, TORCH_LIBRARY) when it is loaded; classes are
// bound here.
#include <pybind11/pybind11.h>

#if __has_include("recordio/bindings.h")
#include "recordio/bindings.h"
#define FACEX_HAVE_RECORDIO 1
#endif
#if __has_include("synth/bindings.h")
#include "synth/bindings.h"
#define FACEX_HAVE_SYNTH 1
#endif

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "Compiled part of facex: operators torch.ops.facex.*, the RecordIO reader, the face renderer.";
  m.attr("torch_version") = FACEX_TORCH_VERSION;
#ifdef FACEX_WITH_CUDA
  m.attr("cuda") = true;
#else
  m.attr("cuda") = false;
#endif
#ifdef FACEX_HAVE_JPEG
  m.attr("jpeg") = true;
#else
  m.attr("jpeg") = false;
#endif
#ifdef FACEX_HAVE_RECORDIO
  bind_recordio(m);
#endif
#ifdef FACEX_HAVE_SYNTH
  bind_synth(m);
#endif
}
