// The command line of both examples: PROGRAM MODEL SOURCE [CONFIDENCE [OVERLAP]].
#pragma once

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>

#include "detection.h"

inline void print_boxes(const std::vector<Box>& boxes, const Metadata& metadata, const std::string& prefix) {
    for (const Box& box : boxes)
        std::printf("%s%s %.2f at %.0f %.0f %.0f %.0f\n", prefix.c_str(), metadata.names[box.label].c_str(), box.score,
                    box.x1, box.y1, box.x2, box.y2);
}

// Cameras have numbers.
inline bool is_camera(const std::string& source) { return source.find_first_not_of("0123456789") == std::string::npos; }

#ifdef WITH_OPENCV
// Detects in every frame of a video or a camera (0, 1, ...), and says how long a frame takes.
inline void detect_in_frames(Network& network, const std::string& source, float confidence, float overlap) {
    cv::VideoCapture capture;
    if (!(is_camera(source) ? capture.open(std::stoi(source)) : capture.open(source)))
        throw std::runtime_error("cannot read " + source);
    cv::Mat frame;
    double seconds = 0;
    int frames = 0;
    for (; capture.read(frame); ++frames) {
        const auto start = std::chrono::steady_clock::now();
        const std::vector<Box> boxes = detect(network, from_opencv(frame), confidence, overlap);
        seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        print_boxes(boxes, network.metadata, "frame " + std::to_string(frames) + ": ");
        std::fflush(stdout);
    }
    std::fprintf(stderr, "%d frames, %.1f ms each\n", frames, frames ? 1000 * seconds / frames : 0);
}
#else
inline void detect_in_frames(Network&, const std::string& source, float, float) {
    throw std::runtime_error("cannot read " + source + ": this program was built without OpenCV and reads PPM (P6)");
}
#endif

inline float fraction(const std::string& text) {
    char* end = nullptr;
    const float value = std::strtof(text.c_str(), &end);
    if (end == text.c_str() || *end || !(value >= 0 && value <= 1))
        throw std::runtime_error("expected a number from 0 to 1, got " + text);
    return value;
}

// Runs an example; ``open`` makes a Network from the path of a model. Returns the exit status.
template <class Open>
int run_command(int argc, char** argv, Open open) {
    if (argc < 3 || argc > 5) {
        std::fprintf(stderr, "usage: %s MODEL PICTURE|VIDEO|CAMERA [CONFIDENCE=0.25 [OVERLAP=0.45]]\n", argv[0]);
        return 2;
    }
    const std::string path = argv[1], source = argv[2];
    try {
        const float confidence = argc > 3 ? fraction(argv[3]) : 0.25f, overlap = argc > 4 ? fraction(argv[4]) : 0.45f;
        std::unique_ptr<Network> network;
        try {
            network = open(path);
        } catch (const std::exception& error) {
            throw std::runtime_error("cannot use " + path + ": " + error.what());
        }
        Picture picture = is_camera(source) ? Picture() : read_picture(source);
        if (picture.pixels.empty()) {
            detect_in_frames(*network, source, confidence, overlap);
            return 0;
        }
        const std::vector<Box> boxes = detect(*network, picture, confidence, overlap);
        print_boxes(boxes, network->metadata, "");
        std::fprintf(stderr, "%zu boxes, drawn in %s\n", boxes.size(),
                     write_picture(picture, boxes, network->metadata).c_str());
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "error: %s\n", error.what());
        return 1;
    }
}
