// Detection with an ONNX file of export.py and ONNX Runtime, without Python:
//
//   python export.py --weights pruned_model.pt --imgsz 320 --include onnx     there: FP32, or with --int8
//   ./onnxruntime_detect pruned_model.onnx street.jpg                         here
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include "command.h"

class OnnxNetwork : public Network {
public:
    explicit OnnxNetwork(const std::string& path)
        : session_(environment_, std::basic_string<ORTCHAR_T>(path.begin(), path.end()).c_str(), {}) {
        const Ort::ModelMetadata properties = session_.GetModelMetadata();
        metadata = checked_metadata([&](const std::string& key) {
            Scalars scalars;
            const auto text = properties.LookupCustomMetadataMapAllocated(key.c_str(), allocator_);
            if (text) {
                const std::string json = text.get();
                JsonReader(json).read_scalars(scalars);
            }
            return scalars;
        });
        if (metadata.half) throw std::runtime_error("it was exported with --half, for GPUs: leave that out");
    }

    std::vector<float> run(std::vector<float>& input) override {
        const std::vector<int64_t> shape = {1, 3, metadata.height, metadata.width};
        const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
        const auto tensor =
            Ort::Value::CreateTensor<float>(memory, input.data(), input.size(), shape.data(), shape.size());
        const auto input_name = session_.GetInputNameAllocated(0, allocator_);
        const auto output_name = session_.GetOutputNameAllocated(0, allocator_);
        const char *inputs[] = {input_name.get()}, *outputs[] = {output_name.get()};
        const auto results = session_.Run(Ort::RunOptions(), inputs, &tensor, 1, outputs, 1);
        const float* rows = results[0].GetTensorData<float>();  // (1, N, 5 + classes)
        return {rows, rows + results[0].GetTensorTypeAndShapeInfo().GetElementCount()};
    }

private:
    Ort::Env environment_;
    Ort::AllocatorWithDefaultOptions allocator_;
    Ort::Session session_;
};

int main(int argc, char** argv) {
    const OrtApiBase* library = OrtGetApiBase();
    const OrtApi* interface = library->GetApi(ORT_API_VERSION);
    if (!interface) {
        std::fprintf(stderr, "error: built for ONNX Runtime 1.%d, this library is %s: use one at least as new\n",
                     ORT_API_VERSION, library->GetVersionString());
        return 1;
    }
    Ort::InitApi(interface);
    return run_command(argc, argv, [](const std::string& path) { return std::make_unique<OnnxNetwork>(path); });
}
