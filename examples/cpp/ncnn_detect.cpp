// Detection with an ncnn folder of export.py, without Python:
//
//   python export.py --weights pruned_model.pt --imgsz 320 --include ncnn     there; --half for FP16 on ARM
//   ./ncnn_detect pruned_model_ncnn_model street.jpg                          here
#include <net.h>

#include "command.h"

class NcnnNetwork : public Network {
public:
    explicit NcnnNetwork(const std::string& folder) {
        std::ifstream file(folder + "/metadata.json");
        const std::string json((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
        if (json.empty()) throw std::runtime_error("there is no metadata.json in it");
        std::map<std::string, Scalars> entries = JsonReader(json).read_entries();
        metadata = checked_metadata([&](const std::string& key) { return entries[key]; });
        net_.opt.use_fp16_packed = net_.opt.use_fp16_storage = net_.opt.use_fp16_arithmetic = metadata.half;
        if (net_.load_param((folder + "/model.ncnn.param").c_str()) ||
            net_.load_model((folder + "/model.ncnn.bin").c_str()))
            throw std::runtime_error("ncnn cannot read its model.ncnn.param and model.ncnn.bin");
    }

    std::vector<float> run(std::vector<float>& input) override {
        const size_t plane = size_t(metadata.width) * metadata.height;
        ncnn::Mat tensor(metadata.width, metadata.height, 3), output;
        for (int colour = 0; colour < 3; ++colour)  // ncnn aligns the start of each plane
            std::copy_n(&input[colour * plane], plane, static_cast<float*>(tensor.channel(colour)));
        ncnn::Extractor extractor = net_.create_extractor();
        if (extractor.input("in0", tensor) || extractor.extract("out0", output))
            throw std::runtime_error("ncnn cannot run the network");
        const float* rows = output;  // (N, 5 + classes)
        return {rows, rows + output.total()};
    }

private:
    ncnn::Net net_;
};

int main(int argc, char** argv) {
    return run_command(argc, argv, [](const std::string& folder) { return std::make_unique<NcnnNetwork>(folder); });
}
