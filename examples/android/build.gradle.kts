// From 9.0 on the Android plugin compiles Kotlin by itself.
plugins {
    id("com.android.application") version "9.3.1" apply false
}
