package io.github.tinydet.example

import android.content.Context
import android.graphics.Bitmap
import com.google.mediapipe.framework.image.BitmapImageBuilder
import com.google.mediapipe.tasks.core.BaseOptions
import com.google.mediapipe.tasks.vision.core.RunningMode
import com.google.mediapipe.tasks.vision.objectdetector.ObjectDetector

/** A file of `export --postprocess tasks` in MediaPipe Tasks: labels and soft-NMS are in the file. */
class MediaPipeDetector(context: Context, model: String, threshold: Float) : ObjectFinder {
    private val detector = ObjectDetector.createFromOptions(
        context,
        ObjectDetector.ObjectDetectorOptions.builder()
            .setBaseOptions(BaseOptions.builder().setModelAssetPath(model).build())
            .setRunningMode(RunningMode.IMAGE)
            .setScoreThreshold(threshold)
            .build(),
    )

    override fun find(bitmap: Bitmap): List<Found> =
        detector.detect(BitmapImageBuilder(bitmap).build()).detections().map { detection ->
            val best = detection.categories().first()
            Found(best.categoryName(), best.score(), detection.boundingBox())
        }

    override fun close() = detector.close()
}
