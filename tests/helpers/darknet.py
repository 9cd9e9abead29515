"""Small networks in darknet's format."""

import torch
from torch import nn

from cmb_bundle.scripts.darknet.detector import (
    write_weights,
)
from cmb_bundle.scripts.darknet.network import DarknetNetwork


def spatial_size(network):
    net = network.sections[0]
    return int(net.options["height"]), int(net.options["width"])


NET = "[net]\nwidth={width}\nheight={height}\nchannels={channels}"


REGION = "[region]\nanchors=1,1.5, 2.5,2\nclasses={classes}\nnum=2\nsoftmax=1\nthresh=0\nobject_scale=5\nrescore=1\n"


def random_network(cfg, seed=0, **arguments):
    """A network with weights that show every part of a layer, and raw values of about 1 at the end."""
    torch.manual_seed(seed)
    network = DarknetNetwork(cfg, **arguments).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.1, 2)
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.3)
    images = torch.rand(1, network.in_channels, *spatial_size(network))
    network.layers[-1].conv.weight.data /= network(images).std()
    return network


def conv(filters, size=3, activation="leaky", norm=1, **options):
    options = {"pad": 1} | options
    lines = [f"batch_normalize={norm}", f"filters={filters}", f"size={size}", f"activation={activation}"]
    return "\n".join(["[convolutional]", *lines, *(f"{key}={value}" for key, value in options.items())])


def cfg_text(*layers, width=64, height=64, channels=3, classes=1):
    last = conv(2 * (5 + classes), 1, "linear", norm=0)
    parts = [NET.format(width=width, height=height, channels=channels), *layers, last, REGION.format(classes=classes)]
    return "\n\n".join(parts)


def write_small(folder, text, **arguments):
    (folder / "a.cfg").write_text(text)
    network = random_network(folder / "a.cfg", **arguments)
    write_weights(network, folder / "a.weights", seen=321)
    return folder / "a.cfg", folder / "a.weights", network
