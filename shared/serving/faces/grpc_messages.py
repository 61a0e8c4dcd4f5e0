"""The messages spoken over gRPC: Open Inference Protocol v2 with Triton's additions, health, and the details of an error.

Names, numbers and types are those of the public protocols (`inference`, `grpc.health.v1`, `google.rpc`), so that anybody's
client understands them; a message of theirs that nothing here reads or writes is left out.
"""

from shared.serving.faces.grpc_wire import messages

_NAMED = """
    string name = 1
    string version = 2
"""
_TENSOR = """
    string name = 1
    string datatype = 2
    repeated int64 shape = 3
    map InferParameter parameters = 4
    InferTensorContents contents = 5
"""
_DATATYPES = ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64")

INFERENCE = messages(
    "inference",
    {
        "ServerLiveRequest": "",
        "ServerLiveResponse": "bool live = 1",
        "ServerReadyRequest": "",
        "ServerReadyResponse": "bool ready = 1",
        "ServerMetadataRequest": "",
        "ServerMetadataResponse": _NAMED + "repeated string extensions = 3",
        "ModelReadyRequest": _NAMED,
        "ModelReadyResponse": "bool ready = 1",
        "ModelMetadataRequest": _NAMED,
        "ModelMetadataResponse": """
            string name = 1
            repeated string versions = 2
            string platform = 3
            repeated TensorMetadata inputs = 4
            repeated TensorMetadata outputs = 5
        """,
        "TensorMetadata": """
            string name = 1
            string datatype = 2
            repeated int64 shape = 3
        """,
        "ModelInferRequest": """
            string model_name = 1
            string model_version = 2
            string id = 3
            map InferParameter parameters = 4
            repeated InferInputTensor inputs = 5
            repeated InferRequestedOutputTensor outputs = 6
            repeated bytes raw_input_contents = 7
        """,
        "ModelInferResponse": """
            string model_name = 1
            string model_version = 2
            string id = 3
            map InferParameter parameters = 4
            repeated InferOutputTensor outputs = 5
            repeated bytes raw_output_contents = 6
        """,
        "ModelStreamInferResponse": """
            string error_message = 1
            ModelInferResponse infer_response = 2
        """,
        "InferInputTensor": _TENSOR,
        "InferOutputTensor": _TENSOR,
        "InferRequestedOutputTensor": """
            string name = 1
            map InferParameter parameters = 2
        """,
        "InferParameter": """
            oneof bool bool_param = 1
            oneof int64 int64_param = 2
            oneof string string_param = 3
            oneof double double_param = 4
            oneof uint64 uint64_param = 5
        """,
        "InferTensorContents": """
            repeated bool bool_contents = 1
            repeated int32 int_contents = 2
            repeated int64 int64_contents = 3
            repeated uint32 uint_contents = 4
            repeated uint64 uint64_contents = 5
            repeated float fp32_contents = 6
            repeated double fp64_contents = 7
            repeated bytes bytes_contents = 8
        """,
        "ModelConfigRequest": _NAMED,
        "ModelConfigResponse": "ModelConfig config = 1",
        "ModelConfig": """
            string name = 1
            string platform = 2
            int32 max_batch_size = 4
            repeated ModelInput input = 5
            repeated ModelOutput output = 6
            map ModelParameter parameters = 14
            string backend = 17
            ModelTransactionPolicy model_transaction_policy = 19
        """,
        "ModelInput": """
            string name = 1
            DataType data_type = 2
            repeated int64 dims = 4
        """,
        "ModelOutput": """
            string name = 1
            DataType data_type = 2
            repeated int64 dims = 3
        """,
        "ModelParameter": "string string_value = 1",
        "ModelTransactionPolicy": "bool decoupled = 1",
        "ModelStatisticsRequest": _NAMED,
        "ModelStatisticsResponse": "repeated ModelStatistics model_stats = 1",
        "ModelStatistics": """
            string name = 1
            string version = 2
            uint64 last_inference = 3
            uint64 inference_count = 4
            uint64 execution_count = 5
            InferStatistics inference_stats = 6
            repeated InferBatchStatistics batch_stats = 7
            repeated MemoryUsage memory_usage = 8
        """,
        "MemoryUsage": """
            string type = 1
            int64 id = 2
            uint64 byte_size = 3
        """,
        "InferStatistics": """
            StatisticDuration success = 1
            StatisticDuration fail = 2
            StatisticDuration queue = 3
            StatisticDuration compute_input = 4
            StatisticDuration compute_infer = 5
            StatisticDuration compute_output = 6
            StatisticDuration cache_hit = 7
            StatisticDuration cache_miss = 8
        """,
        "InferBatchStatistics": """
            uint64 batch_size = 1
            StatisticDuration compute_input = 2
            StatisticDuration compute_infer = 3
            StatisticDuration compute_output = 4
        """,
        "StatisticDuration": """
            uint64 count = 1
            uint64 ns = 2
        """,
        "RepositoryIndexRequest": """
            string repository_name = 1
            bool ready = 2
        """,
        "RepositoryIndexResponse": "repeated ModelIndex models = 1",
        "RepositoryModelLoadRequest": """
            string repository_name = 1
            string model_name = 2
        """,
        "RepositoryModelUnloadRequest": """
            string repository_name = 1
            string model_name = 2
        """,
        "ModelIndex": """
            string name = 1
            string version = 2
            string state = 3
            string reason = 4
        """,
    },
    {"DataType": [f"TYPE_{name}" for name in ("INVALID", *_DATATYPES, "STRING", "BF16")]},
)

HEALTH = messages(
    "grpc.health.v1",
    {"HealthCheckRequest": "string service = 1", "HealthCheckResponse": "ServingStatus status = 1"},
    {"ServingStatus": ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"]},
)

STATUS = messages(
    "google.rpc",
    {
        "Status": """
            int32 code = 1
            string message = 2
            repeated Any details = 3
        """,
        "Any": """
            string type_url = 1
            bytes value = 2
        """,
        "ErrorInfo": """
            string reason = 1
            string domain = 2
        """,
        "RetryInfo": "Duration retry_delay = 1",
        "Duration": """
            int64 seconds = 1
            int32 nanos = 2
        """,
    },
)
"""Details of an error; `Any` and `Duration` stand here as what they are on the wire."""
