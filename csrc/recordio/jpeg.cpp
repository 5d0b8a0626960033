#include "jpeg.h"

#include <cstring>

#ifdef FACEX_HAVE_JPEG
#include <csetjmp>
#include <cstdio>
// jpeglib.h needs FILE and size_t first.
#include <jpeglib.h>
// jerror.h comes after jpeglib.h.
#include <jerror.h>
#endif

namespace facex::recordio {

// Plain libjpeg (no JCS_EXTENSIONS) has neither BGR output nor the same pixels: it counts as missing.
#if defined(FACEX_HAVE_JPEG) && defined(JCS_EXTENSIONS)

namespace {

constexpr int kMaxScans = 256;                  // a progressive picture has about ten
constexpr long kMaxMemory = 128 * 1024 * 1024;  // of libjpeg's own buffers

struct ErrorManager {
  jpeg_error_mgr base;  // first: libjpeg hands us a pointer to it
  std::jmp_buf jump;
  bool lenient;
  bool damaged;
  char message[JMSG_LENGTH_MAX];
};

ErrorManager& manager(j_common_ptr info) { return *reinterpret_cast<ErrorManager*>(info->err); }

[[noreturn]] void fail(j_common_ptr info) {
  ErrorManager& errors = manager(info);
  if (!errors.damaged) (*info->err->format_message)(info, errors.message);
  std::longjmp(errors.jump, 1);
}

// Warnings that mean lost picture data; the others (extraneous bytes, an odd JFIF version) change nothing.
bool loses_data(int code) {
  switch (code) {
    case JWRN_HIT_MARKER:
    case JWRN_JPEG_EOF:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_ARITH_BAD_CODE:
    case JWRN_MUST_RESYNC:
    case JWRN_BOGUS_PROGRESSION:
    case JWRN_NOT_SEQUENTIAL:
      return true;
    default:
      return false;
  }
}

void on_message(j_common_ptr info, int level) {
  ErrorManager& errors = manager(info);
  if (level >= 0 || !loses_data(info->err->msg_code)) return;
  if (!errors.damaged) {
    const int code = info->err->msg_code;
    if (code == JWRN_JPEG_EOF || code == JWRN_HIT_MARKER)
      std::snprintf(errors.message, sizeof errors.message, "premature end of the JPEG data");
    else
      (*info->err->format_message)(info, errors.message);
    errors.damaged = true;
  }
  if (!errors.lenient) std::longjmp(errors.jump, 1);
}

// Thousands of empty scans would take minutes.
void on_progress(j_common_ptr info) {
  if (info->is_decompressor && reinterpret_cast<j_decompress_ptr>(info)->input_scan_number > kMaxScans) {
    ErrorManager& errors = manager(info);
    std::snprintf(errors.message, sizeof errors.message, "more than %d scans in a progressive JPEG", kMaxScans);
    errors.damaged = true;
    std::longjmp(errors.jump, 1);
  }
}

// One decompressor a thread, reused from picture to picture: it keeps no memory of a picture between two calls.
class Decompressor {
 public:
  Decompressor() {
    std::memset(&info_, 0, sizeof info_);
    info_.err = jpeg_std_error(&errors_.base);
    errors_.base.error_exit = fail;
    errors_.base.emit_message = on_message;
    errors_.base.output_message = [](j_common_ptr) {};
    if (setjmp(errors_.jump)) return;  // out of memory: `ready_` stays false
    jpeg_create_decompress(&info_);
    info_.mem->max_memory_to_use = kMaxMemory;
    progress_.progress_monitor = on_progress;
    ready_ = true;
  }
  ~Decompressor() {
    if (ready_) jpeg_destroy_decompress(&info_);
  }
  Decompressor(const Decompressor&) = delete;
  Decompressor& operator=(const Decompressor&) = delete;

  DecodeResult decode(Bytes payload, uint8_t* out, const DecodeOptions& options) {
    if (!ready_) return {Decoded::kError, 0, 0, "out of memory"};
    errors_.lenient = options.lenient;
    errors_.damaged = false;
    errors_.message[0] = '\0';
    started_ = false;
    const Decoded status = run(payload, out, options);
    DecodeResult result{status, height_, width_, {}};
    if (status == Decoded::kError || status == Decoded::kPartial) result.problem = errors_.message;
    return result;
  }

 private:
  // No object with a destructor may live in here: longjmp does not run it. All state that is read after the jump is
  // in members.
  Decoded run(Bytes payload, uint8_t* out, const DecodeOptions& options) {
    height_ = width_ = 0;
    if (setjmp(errors_.jump)) {
      jpeg_abort_decompress(&info_);
      return options.lenient && started_ ? Decoded::kPartial : Decoded::kError;
    }
    info_.progress = nullptr;
    jpeg_mem_src(&info_, payload.data, static_cast<unsigned long>(payload.size));
    jpeg_read_header(&info_, TRUE);
    height_ = static_cast<int>(info_.image_height);
    width_ = static_cast<int>(info_.image_width);
    const Decoded early = check(options);
    if (early != Decoded::kImage) {
      jpeg_abort_decompress(&info_);
      return early;
    }
    info_.out_color_space = options.bgr ? JCS_EXT_BGR : JCS_EXT_RGB;
    info_.dct_method = JDCT_ISLOW;
    info_.do_fancy_upsampling = TRUE;
    if (info_.progressive_mode) info_.progress = &progress_;
    if (options.lenient) std::memset(out, 128, size_t{3} * static_cast<size_t>(height_) * static_cast<size_t>(width_));
    jpeg_start_decompress(&info_);
    started_ = true;
    const size_t stride = size_t{3} * info_.output_width;
    while (info_.output_scanline < info_.output_height) {
      JSAMPROW rows[16];
      const JDIMENSION left = info_.output_height - info_.output_scanline;
      const JDIMENSION count = left < 16 ? left : 16;
      for (JDIMENSION i = 0; i < count; ++i) rows[i] = out + (info_.output_scanline + i) * stride;
      jpeg_read_scanlines(&info_, rows, count);
    }
    jpeg_finish_decompress(&info_);
    return errors_.damaged ? Decoded::kPartial : Decoded::kImage;
  }

  Decoded check(const DecodeOptions& options) {
    if (static_cast<uint64_t>(height_) * static_cast<uint64_t>(width_) > options.max_pixels) {
      std::snprintf(errors_.message, sizeof errors_.message,
                    "the image is larger than the limit: %dx%d, limit %llu pixels", width_, height_,
                    static_cast<unsigned long long>(options.max_pixels));
      return Decoded::kError;
    }
    if (height_ != options.height || width_ != options.width) return Decoded::kOtherSize;
    switch (info_.jpeg_color_space) {
      case JCS_GRAYSCALE:
      case JCS_YCbCr:
      case JCS_RGB:
        return Decoded::kImage;
      default:
        return Decoded::kOther;  // CMYK, YCCK, unknown
    }
  }

  jpeg_decompress_struct info_;
  ErrorManager errors_;
  jpeg_progress_mgr progress_{};
  int height_ = 0, width_ = 0;
  bool ready_ = false;
  bool started_ = false;
};

}  // namespace

DecodeResult decode_jpeg(Bytes payload, uint8_t* out, const DecodeOptions& options) {
  if (payload.size < 3 || payload.data[0] != 0xff || payload.data[1] != 0xd8) return {Decoded::kOther, 0, 0, {}};
  static thread_local Decompressor decompressor;
  return decompressor.decode(payload, out, options);
}

#define FACEX_TEXT(x) #x
#define FACEX_VERSION(x) FACEX_TEXT(x)
const char* jpeg_backend() { return "libjpeg-turbo " FACEX_VERSION(LIBJPEG_TURBO_VERSION); }

#else

DecodeResult decode_jpeg(Bytes, uint8_t*, const DecodeOptions&) { return {Decoded::kOther, 0, 0, {}}; }

const char* jpeg_backend() { return "opencv"; }

#endif

}  // namespace facex::recordio
