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

// Resizes a picture into the network's input with its aspect ratio kept, and pads it evenly in grey.
inline std::vector<float> letterbox(const Picture& picture, int width, int height, float scale) {
    const int inner_w = std::max(int(std::nearbyint(picture.width * scale)), 1);
    const int inner_h = std::max(int(std::nearbyint(picture.height * scale)), 1);
    const int left = (width - inner_w) / 2, top = (height - inner_h) / 2;
    const size_t plane = size_t(width) * height;
    std::vector<float> input(3 * plane, 114 / 255.0f);
    for (int y = 0; y < inner_h; ++y) {
        const float source_y = std::clamp((y + 0.5f) * picture.height / inner_h - 0.5f, 0.0f, picture.height - 1.0f);
        const int y0 = int(source_y), y1 = std::min(y0 + 1, picture.height - 1);
        for (int x = 0; x < inner_w; ++x) {
            const float source_x = std::clamp((x + 0.5f) * picture.width / inner_w - 0.5f, 0.0f, picture.width - 1.0f);
            const int x0 = int(source_x), x1 = std::min(x0 + 1, picture.width - 1);
            const float below = source_y - y0, right = source_x - x0;  // weights of the pixels below and to the right
            const uint8_t *upper = &picture.pixels[3 * (size_t(y0) * picture.width)],
                          *lower = &picture.pixels[3 * (size_t(y1) * picture.width)];
            for (int colour = 0; colour < 3; ++colour) {
                const float above_mean = upper[3 * x0 + colour] * (1 - right) + upper[3 * x1 + colour] * right;
                const float below_mean = lower[3 * x0 + colour] * (1 - right) + lower[3 * x1 + colour] * right;
                input[colour * plane + size_t(top + y) * width + left + x] =
                    std::floor(above_mean * (1 - below) + below_mean * below + 0.5f) / 255;
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
