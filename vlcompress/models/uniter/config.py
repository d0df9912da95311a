"""UNITER's configuration, under the name by which transformers finds it."""

from transformers import AutoConfig, PreTrainedConfig


class UniterConfig(PreTrainedConfig):  # type: ignore[misc]
    """Configuration of UNITER; the defaults are the published base model's.

    Attributes:
        vocab_size: word pieces (bert-base-cased).
        type_vocab_size: 2 (text, image); 3 for NLVR2's second image, 4 for VCR's answer and rationale.
        visual_feat_dim: width of one region's features.
        num_object_labels: classes of the region detector (pre-training alone predicts them).
    """

    model_type = "uniter"

    vocab_size: int = 28996
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    visual_feat_dim: int = 2048
    num_object_labels: int = 1601
    tie_word_embeddings: bool = True


AutoConfig.register(UniterConfig.model_type, UniterConfig)
