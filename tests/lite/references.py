"""Soft-NMS written the slow and obvious way, class by class and box by box, in plain Python."""

from __future__ import annotations

import math


def iou(a, b):
    """Of two inclusive-pixel boxes x1, y1, x2, y2."""
    width = max(min(a[2], b[2]) - max(a[0], b[0]) + 1.0, 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]) + 1.0, 0.0)
    intersection = width * height
    area_a = max(a[2] - a[0] + 1.0, 0.0) * max(a[3] - a[1] + 1.0, 0.0)
    area_b = max(b[2] - b[0] + 1.0, 0.0) * max(b[3] - b[1] + 1.0, 0.0)
    union = area_a + area_b - intersection
    return intersection / union if union > 0 else 0.0


def soft_nms(boxes, scores, score_threshold=0.01, iou_threshold=0.5, min_score=1e-3, max_detections=100):
    """[(score, proposal, class)], best first; equal scores by proposal, then by class."""
    boxes = [[float(side) for side in box] for box in boxes]
    everything = []
    num_classes = len(scores[0]) if len(scores) else 0
    for class_id in range(num_classes):
        remaining = [
            (float(row[class_id]), proposal)
            for proposal, row in enumerate(scores)
            if math.isfinite(row[class_id]) and row[class_id] > score_threshold and row[class_id] >= min_score
        ]
        while remaining:
            remaining.sort(key=lambda item: (-item[0], item[1]))
            best_score, best = remaining.pop(0)
            everything.append((best_score, best, class_id))
            decayed = []
            for score, proposal in remaining:
                overlap = iou(boxes[best], boxes[proposal])
                lower = score * (1.0 - overlap) if overlap > iou_threshold else score
                if lower >= min_score and lower > 0.0:
                    decayed.append((lower, proposal))
            remaining = decayed
    everything.sort(key=lambda item: (-item[0], item[1], item[2]))
    return everything[:max_detections]
