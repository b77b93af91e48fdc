package io.github.tinydet.example

import android.content.Context
import android.graphics.Bitmap
import android.graphics.RectF
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import org.json.JSONObject
import java.io.File
import java.util.zip.ZipFile

/**
 * The same file in LiteRT's CompiledModel: no other library, and pictures are shrunk with antialiasing, as in training.
 *
 * The graph has operators that GPUs and NPUs lack (top-k, gather, NMS), so it runs on the CPU.
 */
class LiteRtDetector(context: Context, asset: String, private val threshold: Float) : ObjectFinder {
    private val side: Int
    private val labels: List<String>
    private val model = CompiledModel.create(context.assets, asset, CompiledModel.Options(Accelerator.CPU))
    private val inputs = mapOf(IMAGE to model.createInputBuffer(IMAGE))
    private val outputs = OUTPUTS.associateWith { model.createOutputBuffer(it) }

    init {
        val (info, names) = describe(context, asset)
        require(info.getString("postprocess") == "tasks") { "$asset was exported without --postprocess tasks" }
        side = info.getInt("input_size")
        labels = names
    }

    override fun find(bitmap: Bitmap): List<Found> {
        inputs.getValue(IMAGE).writeInt8(pixelsOf(shrunk(bitmap)))
        model.run(inputs, outputs)
        val (location, category, score, count) = OUTPUTS.map { outputs.getValue(it).readFloat() }
        return (0 until count[0].toInt()).filter { score[it] >= threshold }.map { row ->
            val (top, left, bottom, right) = location.slice(4 * row until 4 * row + 4)
            val box = RectF(left * bitmap.width, top * bitmap.height, right * bitmap.width, bottom * bitmap.height)
            Found(labels[category[row].toInt()], score[row], box)
        }
    }

    override fun close() {
        (inputs.values + outputs.values).forEach { it.close() }
        model.close()
    }

    /** Stretched to the network's square. Android filters over 2 x 2 pixels alone, so large pictures are halved first. */
    private fun shrunk(bitmap: Bitmap): Bitmap {
        var picture = bitmap
        while (picture.width >= 2 * side && picture.height >= 2 * side) {
            picture = Bitmap.createScaledBitmap(picture, picture.width / 2, picture.height / 2, true)
        }
        return Bitmap.createScaledBitmap(picture, side, side, true)
    }

    /** RGB, row by row, a byte each from 0 to 255. */
    private fun pixelsOf(picture: Bitmap): ByteArray {
        val colors = IntArray(side * side)
        picture.getPixels(colors, 0, side, 0, 0, side, side)
        val bytes = ByteArray(3 * colors.size)
        for ((i, color) in colors.withIndex()) {
            bytes[3 * i] = (color shr 16).toByte()
            bytes[3 * i + 1] = (color shr 8).toByte()
            bytes[3 * i + 2] = color.toByte()
        }
        return bytes
    }

    private companion object {
        const val IMAGE = "image"
        val OUTPUTS = listOf("location", "category", "score", "count")

        /** What the file says about itself, and its labels: both are in an archive behind the model. */
        fun describe(context: Context, asset: String): Pair<JSONObject, List<String>> {
            val copy = File.createTempFile("model", ".tflite", context.cacheDir)
            try {
                context.assets.open(asset).use { from -> copy.outputStream().use { from.copyTo(it) } }
                return ZipFile(copy).use { archive ->
                    JSONObject(archive.text("tinydet.json")) to archive.text("labels.txt").trimEnd('\n').split('\n')
                }
            } finally {
                copy.delete()
            }
        }

        fun ZipFile.text(name: String): String = getInputStream(getEntry(name)).use { it.readBytes().decodeToString() }
    }
}
