plugins {
    id("com.android.application")
}

android {
    namespace = "io.github.tinydet.example"
    compileSdk = 36

    defaultConfig {
        applicationId = "io.github.tinydet.example"
        minSdk = 28 // MediaPipe Tasks asks for it
        targetSdk = 36
        versionCode = 1
        versionName = "1.0"
        ndk { abiFilters += "arm64-v8a" }
    }

    // The runtimes map the file into memory, which a compressed asset does not allow.
    androidResources { noCompress += "tflite" }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
}

dependencies {
    implementation("androidx.activity:activity-ktx:1.13.0")
    // One of the two is enough: MediaPipeDetector needs the first, LiteRtDetector the second.
    implementation("com.google.mediapipe:tasks-vision:1.0.0")
    implementation("com.google.ai.edge.litert:litert:2.3.0")
}
