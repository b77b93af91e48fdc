package io.github.tinydet.example

import android.graphics.Bitmap
import android.graphics.Canvas
import android.graphics.Color
import android.graphics.Paint
import android.graphics.RectF

/** An object: [box] in pixels of the picture, [score] from 0 to 1. */
data class Found(val label: String, val score: Float, val box: RectF)

/** Finds objects in pictures. Make one, keep it, close it at the end; call it from one thread, not the main one. */
interface ObjectFinder : AutoCloseable {
    /** [bitmap] has to be ARGB_8888 and upright. The best objects come first. */
    fun find(bitmap: Bitmap): List<Found>
}

/** A copy of the picture with its boxes. */
fun draw(bitmap: Bitmap, objects: List<Found>): Bitmap {
    val copy = bitmap.copy(Bitmap.Config.ARGB_8888, true)
    val canvas = Canvas(copy)
    val unit = maxOf(copy.width, copy.height) / 400f
    val line = Paint().apply { color = Color.GREEN; style = Paint.Style.STROKE; strokeWidth = unit }
    val text = Paint().apply { color = Color.GREEN; textSize = 8 * unit; isAntiAlias = true }
    for (found in objects) {
        canvas.drawRect(found.box, line)
        canvas.drawText("%s %.2f".format(found.label, found.score), found.box.left, found.box.top - 2 * unit, text)
    }
    return copy
}
