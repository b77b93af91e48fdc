"""The network: images in, features, proposals, class probabilities and boxes out. It knows nothing of targets."""
