// The .idx file: "key TAB offset" lines.
#pragma once

#include <string>
#include <vector>

#include "format.h"

namespace facex::recordio {

struct Index {
  std::vector<int64_t> keys;       // empty when the keys are text
  std::vector<std::string> texts;  // empty when the keys are numbers
  std::vector<int64_t> offsets;
};

// Strict: an error names the file and the line. Blank lines are skipped, further columns ignored, a line that comes
// twice counts once; a key with two offsets is an error.
Index read_index(const std::string& path, bool text_keys);

}  // namespace facex::recordio
