"""K1: constant buffers of at least two dimensions, or large ones of one: sound and pictures."""

import torch

from tests.wild.wildlib import Made, by, case, shipped, state, use

FIX = "constant"


@case(
    "K1",
    "silero_stft",
    "silero-vad",
    "silero_vad/data/silero_vad_16k.safetensors",
    "Real weights. `stft_conv.weight` is a windowed Fourier basis under a convolution's name: rows"
    " are sinusoids, values up to 1. The rest is trained.",
)
def silero() -> Made:
    whole = use("safetensors.torch").load_file(
        shipped("silero_vad", "data/silero_vad_16k.safetensors")
    )
    part = {
        "stft_conv.weight": whole["stft_conv.weight"][:16].clone(),
        "conv1.weight": whole["conv1.weight"][:8].clone(),
        "conv1.bias": whole["conv1.bias"],
        "lstm_cell.weight_ih": whole["lstm_cell.weight_ih"][:4].clone(),
        "lstm_cell.bias_ih": whole["lstm_cell.bias_ih"],
        "final_conv.weight": whole["final_conv.weight"],
    }
    return by(part, [("stft", FIX), ("bias", "bias"), ("weight", "weight")])


@case(
    "K1",
    "yolov8_dfl",
    "ultralytics",
    "ultralytics/nn/modules/head.py Detect, block.py DFL",
    "`dfl.conv.weight` is 0, 1, ... 15 in a Conv2d(16, 1, 1).",
)
def yolo() -> Made:
    head = use("ultralytics.nn.modules.head:Detect")(nc=2, ch=(4, 8))
    found = {f"model.22.{n}": t for n, t in state(head, drop="running|batches").items()}
    found = {n: t for n, t in found.items() if "cv" not in n or t.numel() < 300}
    return by(found, [("dfl", FIX), (r"bn\.", "norm"), *WB])


WB: list[tuple[str, str]] = [("bias$", "bias"), ("weight$", "weight")]


@case(
    "K1",
    "torchaudio_mfcc",
    "torchaudio",
    "torchaudio/transforms/_transforms.py MFCC",
    "Buffers of a transform inside a model: DCT, mel filters, window.",
)
def mfcc() -> Made:
    made = use("torchaudio.transforms:MFCC")(
        n_mfcc=13, melkwargs={"n_fft": 128, "n_mels": 20, "hop_length": 32}
    )
    found = {f"frontend.{n}": t for n, t in state(made).items()}
    found["conv.weight"] = torch.nn.Conv1d(13, 16, 3).weight.detach()
    return by(found, [("frontend", FIX), *WB])


@case(
    "K1",
    "nnaudio_mel",
    "nnAudio",
    "nnAudio/features/mel.py MelSpectrogram",
    "`mel_basis`, `stft.wsin`, `stft.wcos` [bins, 1, n_fft], `window_mask` [1, n, 1].",
)
def nnaudio() -> Made:
    made = use("nnAudio.features:MelSpectrogram")(n_fft=64, n_mels=16, verbose=False)
    return by({f"spec.{n}": t for n, t in state(made).items()}, [("", FIX)])


@case(
    "K1",
    "nnaudio_trainable",
    "nnAudio",
    "nnAudio/features/stft.py STFT(trainable=True)",
    "The same names as parameters: trained, but Fourier bases. No name tells; a value test does.",
)
def nnaudio_trainable() -> Made:
    made = use("nnAudio.features:STFT")(n_fft=64, trainable=True, verbose=False)
    return by({f"stft.{n}": t for n, t in state(made).items()}, [("", FIX)])


@case(
    "K1",
    "asteroid_stft",
    "asteroid-filterbanks",
    "asteroid_filterbanks/stft_fb.py STFTFB in Encoder",
    "`filterbank._filters` [34, 1, 32]: windowed sinusoids.",
)
def asteroid() -> Made:
    lib = use("asteroid_filterbanks")
    found = {f"encoder.{n}": t for n, t in state(lib.Encoder(lib.STFTFB(32, 32))).items()}
    found["masker.bottleneck.weight"] = torch.nn.Conv1d(34, 16, 1).weight.detach()
    return by(found, [("encoder", FIX), *WB])


@case(
    "K1",
    "alias_free_filters",
    "alias-free-torch",
    "alias_free_torch/act.py Activation1d (BigVGAN, 2-D in StyleGAN3)",
    "Kaiser-windowed low-pass filters [1, 1, 12]: one row, so no matrix by shape.",
)
def alias_free() -> Made:
    made = use("alias_free_torch:Activation1d")(torch.nn.SiLU())
    found = {f"resblocks.0.activations.0.{n}": t for n, t in state(made).items()}
    found["resblocks.0.convs1.0.weight"] = torch.nn.Conv1d(16, 16, 3).weight.detach()
    return by(found, [("filter", FIX), *WB])


@case(
    "K1",
    "ldm_schedule",
    "stable-diffusion-sdkit",
    "ldm/models/diffusion/ddpm.py DDPM.register_schedule",
    "A single-file Stable Diffusion checkpoint: thirteen schedules of 1,000 steps, and"
    " `model_ema.*`"
    ": an equal copy of every weight under a name without dots.",
)
def ldm() -> Made:
    wrap = use("types").ModuleType("pytorch_lightning.utilities.distributed")
    wrap.rank_zero_only = lambda function: function
    use("sys").modules.setdefault(wrap.__name__, wrap)
    layer = torch.nn.Linear(4, 4)
    net = torch.nn.Sequential(layer)
    beta = use("ldm.modules.diffusionmodules.util").make_beta_schedule(
        "linear", 1000, linear_start=0.00085, linear_end=0.012
    )
    alpha = (1.0 - torch.tensor(beta)).cumprod(0)
    found = {"model.diffusion_model.0.weight": layer.weight.detach().clone()}
    ema = use("ldm.modules.ema:LitEma")(net)
    found |= {f"model_ema.diffusion_model{n}": t for n, t in state(ema, keep="weight").items()}
    found["betas"] = torch.tensor(beta).float()
    found["alphas_cumprod"] = alpha.float()
    found["sqrt_one_minus_alphas_cumprod"] = (1 - alpha).sqrt().float()
    return by(found, [("ema|beta|alpha", FIX), *WB])


@case(
    "K1",
    "csatv2_dct",
    "timm",
    "timm/models/csatv2.py LearnableDct2d",
    "`stem_dct.transform.*.weights`: a DCT matrix of 8 by 8 as a buffer whose name ends in"
    " weights.",
)
def csatv2() -> Made:
    model = use("timm").create_model("csatv2", num_classes=2)
    found = state(model, keep=r"^stem_dct", drop="num_batches")
    return by(found, [(r"transform\.weights", FIX), *WB])


@case(
    "K1",
    "lpips_lin",
    "lpips",
    "lpips/weights/v0.1/alex.pth, lpips/lpips.py NetLinLayer and ScalingLayer",
    "Real weights, all at least 0: `lin0.model.1.weight` [1, 64, 1, 1] is a trained 1x1"
    " convolution,"
    " and `scaling_layer.shift` and `.scale` [1, 3, 1, 1] are constants.",
)
def lpips() -> Made:
    found = torch.load(shipped("lpips", "weights/v0.1/alex.pth"), map_location="cpu")
    layer = use("lpips:ScalingLayer")()
    found |= {f"scaling_layer.{n}": t.clone() for n, t in state(layer).items()}
    return by({n: t.clone() for n, t in found.items()}, [("scaling", FIX), ("lin", "weight")])


@case(
    "K1",
    "fcpe_cents",
    "torchfcpe",
    "torchfcpe/assets/fcpe_c_v001.pt",
    "Real file: `cent_table` of 360 pitches from 1,997 to 9,177 cents, and weight norm's g and v.",
)
def fcpe() -> Made:
    path = shipped("torchfcpe", "assets/fcpe_c_v001.pt")
    whole = torch.load(path, map_location="cpu", weights_only=False)["model"]
    layer = "net.encoder_layers.0.conformer.net"
    names = ["cent_table", "input_stack.1.weight", f"{layer}.0.weight", f"{layer}.4.conv.weight"]
    found = {
        n: whole[n][: 64 if "conv" in n else 360].clone() for n in [*names, "output_proj.weight_g"]
    }
    found["output_proj.weight_v"] = whole["output_proj.weight_v"][:8].clone()
    return by(found, [("cent", FIX), (r"stack\.1|net\.0|_g", "norm"), ("_v", "weight"), *WB])
