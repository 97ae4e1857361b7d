// UTF-8, character by character.
#pragma once

#include <cstddef>
#include <string>

namespace blastscope {

// The bytes of the character at `text`, of which `left` are there; 0: it is none.
inline size_t utf8_length(const char* text, size_t left) {
    auto byte = [text](size_t at) { return static_cast<unsigned char>(text[at]); };
    const unsigned char lead = byte(0);
    const size_t size = lead < 0x80 ? 1 : lead >= 0xC2 && lead < 0xE0 ? 2 : lead >= 0xE0 && lead < 0xF0 ? 3 : lead >= 0xF0 && lead < 0xF5 ? 4 : 0;
    if (size == 0 || size > left) return 0;
    for (size_t at = 1; at < size; at++)
        if ((byte(at) & 0xC0) != 0x80) return 0;
    const unsigned char second = size > 1 ? byte(1) : 0;
    const bool wrong = (lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F) || (lead == 0xF0 && second < 0x90) ||
                       (lead == 0xF4 && second > 0x8F);
    return wrong ? 0 : size;
}

// The text with a question mark for each byte that belongs to no character.
inline std::string readable(const std::string& text) {
    std::string found;
    for (size_t at = 0; at < text.size();) {
        const size_t size = utf8_length(text.data() + at, text.size() - at);
        found += size ? text.substr(at, size) : "?";
        at += size ? size : 1;
    }
    return found;
}

// The text with 'A' to 'Z' as 'a' to 'z'.
inline std::string lower(std::string text) {
    for (char& letter : text)
        if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
    return text;
}

}  // namespace blastscope
