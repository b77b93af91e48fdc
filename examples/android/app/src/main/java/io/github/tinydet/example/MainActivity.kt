package io.github.tinydet.example

import android.graphics.Bitmap
import android.graphics.ImageDecoder
import android.net.Uri
import android.os.Bundle
import android.widget.Button
import android.widget.ImageView
import android.widget.LinearLayout
import android.widget.TextView
import androidx.activity.ComponentActivity
import androidx.activity.result.PickVisualMediaRequest
import androidx.activity.result.contract.ActivityResultContracts
import androidx.activity.result.contract.ActivityResultContracts.PickVisualMedia.ImageOnly
import java.util.concurrent.Executors

private const val MODEL = "tinydet.tflite"
private const val THRESHOLD = 0.3f

/** A button that chooses a picture; below it the picture with what was found. */
class MainActivity : ComponentActivity() {
    // The network runs in one thread of its own, where it is made and closed, too.
    private val worker = Executors.newSingleThreadExecutor()
    private var finder: ObjectFinder? = null
    private lateinit var text: TextView
    private lateinit var image: ImageView

    private val choose = registerForActivityResult(ActivityResultContracts.PickVisualMedia()) { uri ->
        if (uri != null) worker.execute { show(uri) }
    }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        text = TextView(this)
        image = ImageView(this)
        val button = Button(this).apply {
            text = "Choose a picture"
            setOnClickListener { choose.launch(PickVisualMediaRequest(ImageOnly)) }
        }
        setContentView(
            LinearLayout(this).apply {
                orientation = LinearLayout.VERTICAL
                fitsSystemWindows = true
                listOf(button, text, image).forEach(::addView)
            },
        )
    }

    override fun onDestroy() {
        worker.execute { finder?.close() }
        worker.shutdown()
        super.onDestroy()
    }

    private fun show(uri: Uri) {
        try {
            // The other way: LiteRtDetector(this, MODEL, THRESHOLD)
            val detector = finder ?: MediaPipeDetector(this, MODEL, THRESHOLD).also { finder = it }
            // Decoded upright; a hardware bitmap's pixels could not be read.
            val bitmap = ImageDecoder.decodeBitmap(ImageDecoder.createSource(contentResolver, uri)) { decoder, _, _ ->
                decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE
            }.copy(Bitmap.Config.ARGB_8888, false)
            val start = System.nanoTime()
            val found = detector.find(bitmap)
            val milliseconds = (System.nanoTime() - start) / 1_000_000
            val drawn = draw(bitmap, found)
            runOnUiThread {
                text.text = "${found.size} objects in $milliseconds ms"
                image.setImageBitmap(drawn)
            }
        } catch (error: Exception) {
            runOnUiThread { text.text = error.message ?: error.toString() }
        }
    }
}
