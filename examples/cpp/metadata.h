// The metadata that export.py writes: JSON, of which its scalars are read.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

using Scalars = std::vector<std::string>;  // of one entry: a list's items in order, nothing for null

struct Metadata {
    Scalars names;              // of the classes
    int width = 0, height = 0;  // of the network's input, in pixels
    bool half = false;          // its numbers are FP16
};

class JsonReader {
public:
    explicit JsonReader(const std::string& text) : text_(text) {}

    // Appends the scalars of the next value, of lists and objects in it, too.
    void read_scalars(Scalars& scalars, int depth = 0) {
        const char sign = next();
        if (sign == '"') {
            scalars.push_back(read_string());
        } else if ((sign == '[' || sign == '{') && depth < 8) {
            for (++at_; next() != (sign == '[' ? ']' : '}');) {
                if (sign == '{') read_key();
                read_scalars(scalars, depth + 1);
                if (next() == ',') ++at_;
            }
            ++at_;
        } else {
            const size_t start = at_;
            at_ = std::min(text_.find_first_of(",]} \n", at_), text_.size());
            if (at_ == start) throw std::runtime_error("its metadata are not JSON");
            if (text_.compare(start, at_ - start, "null") != 0) scalars.push_back(text_.substr(start, at_ - start));
        }
    }

    // The entries of the next value, an object.
    std::map<std::string, Scalars> read_entries() {
        std::map<std::string, Scalars> entries;
        if (next() != '{') throw std::runtime_error("its metadata are not a JSON object");
        for (++at_; next() != '}';) {
            const std::string key = read_key();
            read_scalars(entries[key]);
            if (next() == ',') ++at_;
        }
        return entries;
    }

private:
    char next() {
        at_ = text_.find_first_not_of(" \n\r\t", at_);
        if (at_ == std::string::npos) throw std::runtime_error("its metadata end in the middle");
        return text_[at_];
    }

    std::string read_key() {
        if (next() != '"') throw std::runtime_error("its metadata are not JSON");
        const std::string key = read_string();
        if (next() != ':') throw std::runtime_error("its metadata are not JSON");
        ++at_;
        return key;
    }

    std::string read_string() {
        std::string value;
        for (++at_; text_.at(at_) != '"'; ++at_) {
            if (text_[at_] != '\\') {
                value += text_[at_];
            } else if (text_.at(++at_) == 'u') {
                unsigned code = read_hex();
                if (code >= 0xd800 && code < 0xdc00 && text_.compare(at_ + 1, 2, "\\u") == 0) {  // two halves
                    at_ += 2;
                    code = 0x10000 + ((code - 0xd800) << 10) + (read_hex() - 0xdc00);
                }
                append_utf8(value, code);
            } else {
                const size_t control = std::string("bfnrt").find(text_[at_]);
                value += control == std::string::npos ? text_[at_] : "\b\f\n\r\t"[control];
            }
        }
        ++at_;
        return value;
    }

    unsigned read_hex() {
        const std::string digits = text_.substr(at_ + 1, 4);
        at_ += 4;
        return unsigned(std::stoul(digits, nullptr, 16));
    }

    static void append_utf8(std::string& value, unsigned code) {
        if (code < 0x80) {
            value += char(code);
            return;
        }
        const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;  // bytes after the first
        value += char((0xff00 >> (more + 1) & 0xff) | code >> 6 * more);
        for (int byte = more - 1; byte >= 0; --byte) value += char(0x80 | (code >> 6 * byte & 0x3f));
    }

    const std::string& text_;
    size_t at_ = 0;
};

// The metadata from a function that gives the scalars of an entry. Throws for files that these examples cannot run.
inline Metadata checked_metadata(const std::function<Scalars(const std::string&)>& entry) {
    const auto is_set = [&](const std::string& key) {
        const Scalars scalars = entry(key);
        return !scalars.empty() && scalars != Scalars{"false"};
    };
    const Scalars size = entry("imgsz"), batch = entry("batch");
    Metadata metadata;
    metadata.names = entry("names");
    if (metadata.names.empty() || size.size() != 2)
        throw std::runtime_error("it has no class names and image size: it was not written by export.py");
    if (is_set("nms") || is_set("anchors") || batch != Scalars{"1"})
        throw std::runtime_error("it was exported with --nms, --raw-heads or --batch-size: leave that out");
    metadata.height = std::atoi(size[0].c_str());
    metadata.width = std::atoi(size[1].c_str());
    if (std::min(metadata.width, metadata.height) < 1 || std::max(metadata.width, metadata.height) > 65536)
        throw std::runtime_error("its image size is " + size[0] + " x " + size[1] + " pixels");
    metadata.half = is_set("half");
    return metadata;
}
