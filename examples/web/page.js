/**
 * The page: pictures, camera, model files and the threshold in; the picture with its boxes, a list and milliseconds out.
 *
 * Query: `?model=URL` another .tflite, `?picture=URL` another first picture.
 */

import {Detector, TinyDetError, loadRuntime} from './tinydet.js';

const WASM = 'node_modules/@litertjs/core/wasm/';
const MODEL = '../../tflite/tinydet_lite/models/digits_s_int8.tflite';
const PICTURE = 'digits.jpg';
// All of this is kept of each picture, so that moving the slider needs no second run.
const LEAST_SCORE = 0.05;
const GOLDEN_ANGLE = 137.508; // degrees of hue between classes: neighbours differ, and no two of them are alike

const byId = (id) => document.getElementById(id);
const view = byId('view');
const stage = byId('stage');
const slider = byId('threshold');
let sliderMoved = false;

let detector = null;
/** What is shown: an ImageBitmap, or the canvas with the camera's last frame. */
let picture = null;
let result = null;
let camera = null;
/** The runtime has one set of buffers: whatever loads or runs does so after what came before it. */
let queue = Promise.resolve();

function inTurn(task) {
  queue = queue.then(task).catch(report);
  return queue;
}

function report(error) {
  // What is not ours goes to the console too, with its trace.
  if (!(error instanceof TinyDetError)) console.error(error);
  byId('message').textContent = error.message ?? String(error);
  byId('message').hidden = false;
}

function clearReport() {
  byId('message').textContent = '';
  byId('message').hidden = true;
}

async function fetched(url, what, advice) {
  let response;
  try {
    response = await fetch(url);
  } catch (error) {
    throw new TinyDetError(`${what} ${url} cannot be fetched (${error.message}). ${advice}`);
  }
  if (!response.ok) throw new TinyDetError(`${what} ${url} is missing (HTTP ${response.status}). ${advice}`);
  return response;
}

async function useModel(litert, content, name) {
  const loaded = await Detector.load(litert, content, name);
  // The old one is let go only now: after a bad file the page works on as before.
  detector?.delete();
  detector = loaded;
  const {variant, quantization, input_size: size, num_classes: classes, suggested_threshold: suggested} = detector.info;
  // What the file suggests counts until somebody moves the slider.
  if (suggested != null && !sliderMoved) {
    slider.value = suggested;
    showThreshold();
  }
  byId('model').textContent = `${variant}, ${quantization}, ${size} × ${size}, ${classes} classes · ${name}`;
  if (picture && !camera) await detect();
}

async function usePicture(blob, name) {
  let bitmap;
  try {
    // Upright by its EXIF orientation; colour profiles are ignored, as in training.
    bitmap = await createImageBitmap(blob, {imageOrientation: 'from-image', colorSpaceConversion: 'none'});
  } catch {
    throw new TinyDetError(`${name} is no picture that this browser reads. JPEG, PNG and WebP are.`);
  }
  stopCamera();
  if (picture instanceof ImageBitmap) picture.close();
  picture = bitmap;
  result = null;
  draw();
  await detect();
}

async function detect() {
  if (!detector) return;
  try {
    result = await detector.detect(picture, picture.width, picture.height, LEAST_SCORE);
  } catch (error) {
    throw new TinyDetError(`The network did not run: ${error.message ?? error}`);
  }
  draw();
}

function shown() {
  return result ? result.detections.filter(({score}) => score >= Number(slider.value)) : [];
}

/** Of one lightness, so that black text is readable on each. */
function colour(classId) {
  return `oklch(82% 0.17 ${(classId * GOLDEN_ANGLE) % 360})`;
}

/** Picture and boxes on one canvas of the screen's own pixels, so that nothing can shift between them. */
function draw() {
  stage.classList.toggle('filled', picture !== null);
  if (!picture) return;
  view.style.setProperty('--aspect', picture.width / picture.height);
  const ratio = devicePixelRatio;
  const place = view.getBoundingClientRect();
  view.width = Math.max(1, Math.round(place.width * ratio));
  view.height = Math.max(1, Math.round(place.height * ratio));
  const context = view.getContext('2d');
  context.imageSmoothingQuality = 'high';
  context.drawImage(picture, 0, 0, view.width, view.height);
  const scaleX = view.width / picture.width;
  const scaleY = view.height / picture.height;
  context.font = `600 ${12 * ratio}px system-ui, sans-serif`;
  context.textBaseline = 'middle';
  const detections = shown();
  const corners = ({box}) => [box[0] * scaleX, box[1] * scaleY, box[2] * scaleX, box[3] * scaleY];
  // The best last: they lie on top. All labels lie over all boxes.
  const rising = [...detections].reverse();
  for (const one of rising) {
    const [x1, y1, x2, y2] = corners(one);
    // Dark under bright: visible on any picture.
    for (const [style, line] of [['rgb(0 0 0 / 60%)', 4], [colour(one.classId), 2]]) {
      context.strokeStyle = style;
      context.lineWidth = line * ratio;
      context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    }
  }
  for (const one of rising) {
    const [x1, y1, x2] = corners(one);
    const width = (text) => context.measureText(text).width + 6 * ratio;
    const full = `${one.label} ${one.score.toFixed(2)}`;
    // Beside a small box the score would hide its neighbours; the list has it.
    const text = width(full) > 2 * (x2 - x1) ? one.label : full;
    const height = 16 * ratio;
    // Above the box, or inside where the picture ends.
    const left = Math.max(0, Math.min(x1 - ratio, view.width - width(text)));
    const top = y1 >= height ? y1 - height : y1;
    context.fillStyle = colour(one.classId);
    context.fillRect(left, top, width(text), height);
    context.fillStyle = '#000';
    context.fillText(text, left + 3 * ratio, top + height / 2);
  }
  describe(detections);
}

function describe(detections) {
  byId('list').replaceChildren(...detections.map(({label, score, box}) => {
    const row = document.createElement('tr');
    for (const text of [label, score.toFixed(3), ...box.map((side) => side.toFixed(1))]) {
      row.insertCell().textContent = text;
    }
    return row;
  }));
  if (!result) {
    byId('summary').textContent = detector ? 'Looking …' : 'No model yet: choose a .tflite.';
    return;
  }
  const {networkMs, totalMs} = result;
  byId('summary').textContent =
    `${detections.length} found · ${totalMs.toFixed(0)} ms, of them ${networkMs.toFixed(0)} in the network` +
    (camera ? ` · ${(1000 / camera.period).toFixed(1)} frames a second` : '');
}

const CAMERA_ERRORS = {
  NotAllowedError: 'The camera was refused. Allow it for this page in the browser’s settings.',
  NotFoundError: 'No camera was found.',
  NotReadableError: 'The camera is in use by another program, or it failed.',
};

async function startCamera() {
  // Browsers hide it from plain http, but for the same machine.
  if (!navigator.mediaDevices) throw new TinyDetError('Browsers give the camera only to https:// and to localhost.');
  if (!detector) throw new TinyDetError('No model yet: choose a .tflite first.');
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      video: {facingMode: 'environment', width: {ideal: 1280}, height: {ideal: 720}},
    });
  } catch (error) {
    throw new TinyDetError(CAMERA_ERRORS[error.name] ?? `The camera does not start (${error.message}).`);
  }
  const video = document.createElement('video');
  video.muted = true;
  video.playsInline = true; // an iPhone would go to full screen
  video.srcObject = stream;
  try {
    await video.play();
  } catch (error) {
    for (const track of stream.getTracks()) track.stop(); // or the camera would stay on
    throw new TinyDetError(`The camera's picture does not play (${error.message}). Try again, or another browser.`);
  }
  if (picture instanceof ImageBitmap) picture.close();
  picture = document.createElement('canvas');
  result = null;
  camera = {stream, period: 1000, last: performance.now()};
  byId('camera').setAttribute('aria-pressed', 'true');
  const mine = camera;
  stream.getVideoTracks()[0].addEventListener('ended', () => {
    if (camera !== mine) return;
    stopCamera();
    report(new TinyDetError('The camera is gone.'));
  });
  // Each frame takes its turn in the queue, so that a model or picture can come between.
  const next = () => {
    if (camera === mine) requestAnimationFrame(() => inTurn(() => frame(mine, video)).then(next));
  };
  next();
}

async function frame(mine, video) {
  if (camera !== mine) return;
  // A phone that is turned changes the sides.
  if (picture.width !== video.videoWidth || picture.height !== video.videoHeight) {
    picture.width = video.videoWidth;
    picture.height = video.videoHeight;
  }
  // Not mirrored, not even the front camera: labels are about what can be read.
  picture.getContext('2d').drawImage(video, 0, 0);
  const now = performance.now();
  mine.period += 0.2 * (now - mine.last - mine.period);
  mine.last = now;
  try {
    await detect();
  } catch (error) {
    stopCamera();
    throw error;
  }
}

function stopCamera() {
  for (const track of camera?.stream.getTracks() ?? []) track.stop();
  camera = null;
  byId('camera').setAttribute('aria-pressed', 'false');
}

function connect(litert) {
  const take = (file) => inTurn(async () => {
    if (!file) return;
    clearReport();
    if (/\.tflite$/i.test(file.name)) await useModel(litert, await file.arrayBuffer(), file.name);
    else await usePicture(file, file.name);
  });
  for (const id of ['picture-file', 'model-file']) {
    byId(id).addEventListener('change', ({target}) => {
      take(target.files[0]);
      target.value = ''; // the same file may come again
    });
  }
  byId('camera').addEventListener('click', () => inTurn(async () => {
    clearReport();
    if (!camera) return startCamera();
    stopCamera();
    draw();
  }));
  // On the whole window: beside the frame a dropped file would replace the page.
  addEventListener('dragover', (event) => {
    event.preventDefault();
    stage.classList.add('target');
  });
  addEventListener('dragleave', () => stage.classList.remove('target'));
  addEventListener('drop', (event) => {
    event.preventDefault();
    stage.classList.remove('target');
    take(event.dataTransfer.files[0]);
  });
}

function showThreshold() {
  byId('threshold-shown').textContent = Number(slider.value).toFixed(2);
}

slider.addEventListener('input', () => {
  sliderMoved = true;
  showThreshold();
  draw();
});
new ResizeObserver(draw).observe(stage);

inTurn(async () => {
  byId('model').textContent = 'Loading the runtime …';
  const litert = await loadRuntime(new URL(WASM, location.href).href);
  connect(litert);
  const query = new URLSearchParams(location.search);
  const [model, first] = [query.get('model') ?? MODEL, query.get('picture') ?? PICTURE];
  // Each for itself: a missing model does not keep the picture away.
  inTurn(async () => {
    byId('model').textContent = 'No model';
    const advice = 'Choose a .tflite, or make one with scripts/export.py.';
    const response = await fetched(model, 'The model', advice);
    await useModel(litert, await response.arrayBuffer(), model.split('/').pop());
  });
  inTurn(async () => {
    const response = await fetched(first, 'The picture', 'Choose one.');
    await usePicture(await response.blob(), first.split('/').pop());
  });
});
