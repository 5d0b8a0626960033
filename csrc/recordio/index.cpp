#include "index.h"

#include <algorithm>
#include <charconv>
#include <numeric>
#include <string_view>

#include "mapped_file.h"

namespace facex::recordio {

namespace {

std::string_view strip(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '\v' || c == '\f'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

// What a message shows of a line: short, printable ASCII.
std::string quote(std::string_view text) {
  std::string shown = "'";
  for (char c : text.substr(0, 40)) shown += c >= ' ' && c <= '~' ? c : '?';
  return shown + (text.size() > 40 ? "...'" : "'");
}

bool parse(std::string_view text, int64_t& value) {
  text = strip(text);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

bool out_of_range(std::string_view text) {
  int64_t value;
  text = strip(text);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc::result_out_of_range && end == text.data() + text.size();
}

// Removes lines that repeat a key with the same offset and throws on one with another; keeps the order.
template <typename Key>
void remove_duplicates(const std::string& path, std::vector<Key>& keys, std::vector<int64_t>& offsets) {
  if (std::adjacent_find(keys.begin(), keys.end(), [](const Key& a, const Key& b) { return !(a < b); }) == keys.end())
    return;  // strictly ascending, the usual case
  std::vector<size_t> order(keys.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return keys[a] < keys[b]; });
  std::vector<bool> drop(keys.size());
  bool any = false;
  for (size_t i = 1; i < order.size(); ++i) {
    const size_t before = order[i - 1], here = order[i];
    if (keys[before] != keys[here]) continue;
    if (offsets[before] != offsets[here]) {
      std::string name;
      if constexpr (std::is_same_v<Key, std::string>)
        name = quote(keys[here]);
      else
        name = std::to_string(keys[here]);
      throw RecordError(path + ": bad index: duplicate key " + name + " with offsets " +
                        std::to_string(offsets[before]) + " and " + std::to_string(offsets[here]));
    }
    drop[here] = any = true;
  }
  if (!any) return;
  size_t kept = 0;
  for (size_t i = 0; i < keys.size(); ++i) {
    if (drop[i]) continue;
    if (kept != i) keys[kept] = std::move(keys[i]);
    offsets[kept++] = offsets[i];
  }
  keys.resize(kept);
  offsets.resize(kept);
}

}  // namespace

Index read_index(const std::string& path, bool text_keys) {
  const MappedFile file(path);
  const Bytes bytes = file.bytes();
  const std::string_view all(reinterpret_cast<const char*>(bytes.data), bytes.size);
  Index index;
  uint64_t number = 0;
  for (size_t start = 0; start < all.size();) {
    const size_t end = std::min(all.find('\n', start), all.size());
    const std::string_view line = strip(all.substr(start, end - start));
    start = end + 1;
    ++number;
    if (line.empty()) continue;
    const auto bad = [&](const std::string& what) {
      return RecordError(path + ": bad index: line " + std::to_string(number) + " is " + quote(line) + ": " + what);
    };
    const size_t tab = line.find('\t');
    if (tab == std::string_view::npos) throw bad("expected 'key TAB offset'");
    const std::string_view key = line.substr(0, tab), rest = line.substr(tab + 1);
    const std::string_view offset = rest.substr(0, rest.find('\t'));
    int64_t number_key = 0, value = 0;
    if (!text_keys && !parse(key, number_key)) throw bad("the key is not a whole number of 64 bits");
    if (out_of_range(offset)) throw bad("the offset does not fit into 64 bits: it is past end of file");
    if (!parse(offset, value)) throw bad("the offset is not a whole number");
    if (value < 0) throw bad("the offset is negative");
    if (value % 4 != 0) throw bad("the offset is not a multiple of 4");
    if (text_keys)
      index.texts.emplace_back(key);
    else
      index.keys.push_back(number_key);
    index.offsets.push_back(value);
  }
  if (text_keys)
    remove_duplicates(path, index.texts, index.offsets);
  else
    remove_duplicates(path, index.keys, index.offsets);
  return index;
}

}  // namespace facex::recordio
