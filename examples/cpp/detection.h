// From a picture to boxes: reading, letterbox, non-maximum suppression, drawing. Plain C++17. Where CMake finds OpenCV,
// pictures may be JPEG, PNG and so on; without it, they are PPM files (P6).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "metadata.h"

#ifdef WITH_OPENCV
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <opencv2/videoio.hpp>
#endif

struct Picture {
    int width = 0, height = 0;
    std::vector<uint8_t> pixels;  // red, green, blue, row by row
};

struct Box {
    float x1, y1, x2, y2, score;  // corners in pixels of the picture
    size_t label;
};

// A file of export.py, opened by a runtime.
struct Network {
    Metadata metadata;
    virtual ~Network() = default;
    // (3, height, width) of 0 to 1, red first -> (N, 5 + classes): centre, size in pixels, objectness, class scores
    virtual std::vector<float> run(std::vector<float>& input) = 0;
};

// ---- pictures ------------------------------------------------------------------------------------------------------

#ifdef WITH_OPENCV
inline Picture from_opencv(const cv::Mat& frame) {
    cv::Mat rgb;
    cv::cvtColor(frame, rgb, cv::COLOR_BGR2RGB);
    return {rgb.cols, rgb.rows, std::vector<uint8_t>(rgb.datastart, rgb.dataend)};
}

inline Picture read_picture(const std::string& path) {
    const cv::Mat image = cv::imread(path);
    return image.empty() ? Picture() : from_opencv(image);
}

inline std::string write_picture(Picture& picture, const std::vector<Box>& boxes, const Metadata& metadata) {
    cv::Mat image(picture.height, picture.width, CV_8UC3, picture.pixels.data());
    cv::cvtColor(image, image, cv::COLOR_RGB2BGR);
    for (const Box& box : boxes) {
        const cv::Point corner(cvRound(box.x1), cvRound(box.y1));
        cv::rectangle(image, corner, {cvRound(box.x2), cvRound(box.y2)}, {0, 200, 0}, 2);
        cv::putText(image, metadata.names[box.label], corner - cv::Point(0, 4), cv::FONT_HERSHEY_SIMPLEX, 0.5,
                    {0, 200, 0});
    }
    cv::imwrite("detected.jpg", image);
    return "detected.jpg";
}
#else
inline Picture read_picture(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string magic;
    Picture picture;
    int most = 0;
    file >> magic >> picture.width >> picture.height >> most;
    if (!file || magic != "P6" || most != 255 || picture.width < 1 || picture.height < 1) return {};
    file.get();
    picture.pixels.resize(size_t(3) * picture.width * picture.height);
    file.read(reinterpret_cast<char*>(picture.pixels.data()), std::streamsize(picture.pixels.size()));
    return file ? picture : Picture();
}

inline std::string write_picture(Picture& picture, const std::vector<Box>& boxes, const Metadata&) {
    for (const Box& box : boxes) {
        const int x1 = int(box.x1), y1 = int(box.y1), x2 = int(box.x2), y2 = int(box.y2);
        for (int y = y1; y <= std::min(y2, picture.height - 1); ++y)
            for (int x = x1; x <= std::min(x2, picture.width - 1); ++x)
                if (std::min({x - x1, x2 - x, y - y1, y2 - y}) < 2)
                    std::copy_n("\x00\xc8\x00", 3, &picture.pixels[3 * (size_t(y) * picture.width + x)]);
    }
    std::ofstream file("detected.ppm", std::ios::binary);
    file << "P6\n" << picture.width << ' ' << picture.height << "\n255\n";
    file.write(reinterpret_cast<const char*>(picture.pixels.data()), std::streamsize(picture.pixels.size()));
    return "detected.ppm";
}
#endif

// ---- from a picture to boxes ---------------------------------------------------------------------------------------

// The two source pixels of an output pixel along one axis, and the weight of the second in 1/2048, as OpenCV rounds it.
struct Neighbours {
    int first, second, weight;
    Neighbours(int position, int source_size, int size) {
        const double exact = (position + 0.5) * (double(source_size) / size) - 0.5;
        const float source = std::clamp(float(exact), 0.0f, float(source_size - 1));
        first = int(source);
        second = std::min(first + 1, source_size - 1);
        weight = int(std::nearbyint((source - first) * 2048));
    }
};

// Resizes a picture into the network's input with its aspect ratio kept, and pads it evenly in grey. The arithmetic is
// that of cv::resize, since differences of one level can already exchange two boxes that are equally good.
inline std::vector<float> letterbox(const Picture& picture, int width, int height, float scale) {
    const int inner_w = std::max(int(std::nearbyint(picture.width * scale)), 1);
    const int inner_h = std::max(int(std::nearbyint(picture.height * scale)), 1);
    const int left = (width - inner_w) / 2, top = (height - inner_h) / 2;
    const size_t plane = size_t(width) * height;
    std::vector<float> input(3 * plane, 114 / 255.0f);
    std::vector<Neighbours> columns;
    for (int x = 0; x < inner_w; ++x) columns.emplace_back(x, picture.width, inner_w);
    for (int y = 0; y < inner_h; ++y) {
        const Neighbours rows(y, picture.height, inner_h);
        const uint8_t* upper = &picture.pixels[3 * (size_t(rows.first) * picture.width)];
        const uint8_t* lower = &picture.pixels[3 * (size_t(rows.second) * picture.width)];
        for (int x = 0; x < inner_w; ++x) {
            const Neighbours& column = columns[x];
            for (int colour = 0; colour < 3; ++colour) {
                const int first = 3 * column.first + colour, second = 3 * column.second + colour;
                const int above = upper[first] * (2048 - column.weight) + upper[second] * column.weight;
                const int below = lower[first] * (2048 - column.weight) + lower[second] * column.weight;
                const int sum = ((2048 - rows.weight) * (above >> 4) >> 16) + (rows.weight * (below >> 4) >> 16);
                input[colour * plane + size_t(top + y) * width + left + x] = float((sum + 2) >> 2) / 255;
            }
        }
    }
    return input;
}

inline float overlap_of(const Box& a, const Box& b) {
    const float shared = std::max(std::min(a.x2, b.x2) - std::max(a.x1, b.x1), 0.0f) *
                         std::max(std::min(a.y2, b.y2) - std::max(a.y1, b.y1), 0.0f);
    return shared / ((a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1) - shared + 1e-9f);
}

// The boxes above ``confidence``, best first, without those that overlap a better one of their class too much.
inline std::vector<Box> best_boxes(const std::vector<float>& rows, size_t classes, float confidence, float overlap) {
    std::vector<Box> boxes, kept;
    for (size_t start = 0; start + 5 + classes <= rows.size(); start += 5 + classes) {
        const float* row = &rows[start];
        const float* best = std::max_element(row + 5, row + 5 + classes);
        const float score = row[4] * *best;
        if (row[4] > confidence && score > confidence)
            boxes.push_back({row[0] - row[2] / 2, row[1] - row[3] / 2, row[0] + row[2] / 2, row[1] + row[3] / 2, score,
                             size_t(best - row - 5)});
    }
    std::stable_sort(boxes.begin(), boxes.end(), [](const Box& a, const Box& b) { return a.score > b.score; });
    for (const Box& box : boxes)
        if (std::none_of(kept.begin(), kept.end(), [&](const Box& better) {
                return better.label == box.label && overlap_of(better, box) > overlap;
            }))
            kept.push_back(box);
    return kept;
}

inline std::vector<Box> detect(Network& network, const Picture& picture, float confidence, float overlap) {
    const Metadata& metadata = network.metadata;
    const float scale = std::min(float(metadata.width) / picture.width, float(metadata.height) / picture.height);
    std::vector<float> input = letterbox(picture, metadata.width, metadata.height, scale);
    std::vector<Box> boxes = best_boxes(network.run(input), metadata.names.size(), confidence, overlap);
    const float left = (metadata.width - picture.width * scale) / 2;
    const float top = (metadata.height - picture.height * scale) / 2;
    for (Box& box : boxes) {  // from the network's input to the picture
        box.x1 = std::clamp((box.x1 - left) / scale, 0.0f, float(picture.width));
        box.x2 = std::clamp((box.x2 - left) / scale, 0.0f, float(picture.width));
        box.y1 = std::clamp((box.y1 - top) / scale, 0.0f, float(picture.height));
        box.y2 = std::clamp((box.y2 - top) / scale, 0.0f, float(picture.height));
    }
    return boxes;
}
