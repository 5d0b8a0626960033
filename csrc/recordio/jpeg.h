// Ordinary JPEG pictures into a given buffer, with the pixels that every libjpeg-turbo gives.
#pragma once

#include <string>

#include "format.h"

namespace facex::recordio {

enum class Decoded : int8_t {
  kImage = 0,     // the picture is in the buffer
  kOther = 1,     // not a JPEG that this decoder knows (PNG, CMYK, ...): the caller has another one
  kError = 2,     // no picture; `problem` says why
  kPartial = 3,   // lenient: as much of a damaged picture as could be read, the rest grey; `problem` says why
  kOtherSize = 4  // a picture of another size than the buffer's; nothing was decoded
};

struct DecodeOptions {
  int height = 0;
  int width = 0;
  bool bgr = false;
  bool lenient = false;            // a damaged picture gives what can be read of it
  uint64_t max_pixels = 1u << 24;  // larger pictures are refused before anything is allocated
};

struct DecodeResult {
  Decoded status = Decoded::kError;
  int height = 0;  // of the picture, 0 where unknown
  int width = 0;
  std::string problem;
};

// Decodes into out, uint8 [height, width, 3]. Accurate DCT, smooth chroma upsampling, EXIF orientation ignored.
DecodeResult decode_jpeg(Bytes payload, uint8_t* out, const DecodeOptions& options);

// "libjpeg-turbo 2.1.5", or "opencv" where this was compiled without jpeglib.h: then every picture is kOther.
const char* jpeg_backend();

}  // namespace facex::recordio
