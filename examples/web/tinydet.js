/**
 * TinyDet in a web page: reads a .tflite of scripts/export.py, either form, and finds objects in anything a canvas draws.
 *
 * The same steps as tinydet_lite (Python), and tested against it: the file's SHA-256 before the runtime sees it, the
 * picture stretched to S x S, the paper's class-wise linear soft-NMS in the source picture's pixels. Runs in LiteRT.js.
 *
 * Shape letters: P proposals, C classes, N detections, S the network's input size.
 */

const FORMAT_VERSION = 1; // of tinydet.json
const BACKGROUND = 'rgb(128 128 128)'; // behind transparent pixels, as in training

/** What a user can do something about; its message is for him. */
export class TinyDetError extends Error {}

/**
 * Fetches and starts LiteRT.js; once a page.
 *
 * @param {string} wasmFolder URL of the package's `wasm` folder.
 * @throws {TinyDetError} the package or its wasm files cannot be fetched.
 */
export async function loadRuntime(wasmFolder) {
  let litert;
  try {
    litert = await import('@litertjs/core');
    // Threads need shared memory, which browsers give only to pages with the COOP and COEP headers.
    const threads = globalThis.crossOriginIsolated === true;
    await litert.loadLiteRt(wasmFolder, {threads});
  } catch (error) {
    throw new TinyDetError(`LiteRT.js does not load (${reason(error)}). Was “npm ci” run in this folder?`);
  }
  return litert;
}

/**
 * Takes a file apart and checks it: runtimes do not check what they load, they crash.
 *
 * @param {ArrayBuffer} content of the whole file.
 * @param {string} name how errors call it.
 * @returns {Promise<{info: object, labels: string[], model: Uint8Array}>} tinydet.json, C names, the flatbuffer.
 * @throws {TinyDetError} not a .tflite, not one of TinyDet, damaged.
 */
export async function readModel(content, name) {
  const bytes = new Uint8Array(content);
  if (String.fromCharCode(...bytes.subarray(4, 8)) !== 'TFL3') throw new TinyDetError(`${name} is not a .tflite.`);
  let info;
  let labels;
  try {
    const members = storedMembers(bytes);
    info = JSON.parse(members.get('tinydet.json'));
    labels = members.get('labels.txt').split('\n').slice(0, -1).map((line) => line.trim());
  } catch {
    throw new TinyDetError(
      `${name} is not a TinyDet file, or its end is missing; make one with scripts/export.py.`);
  }
  if (info.format_version !== FORMAT_VERSION || labels.length !== info.num_classes ||
      !['host', 'tasks'].includes(info.postprocess) || !(info.input_size >= 1)) {
    throw new TinyDetError(`${name} does not fit this page (its tinydet.json); export it again with scripts/export.py.`);
  }
  const model = bytes.slice(0, info.model_bytes);
  // crypto.subtle is missing on plain http from another machine; the length is checked in any case.
  const sha256 = globalThis.crypto?.subtle ? hex(await crypto.subtle.digest('SHA-256', model)) : info.model_sha256;
  if (model.length !== info.model_bytes || sha256 !== info.model_sha256) {
    throw new TinyDetError(`${name} is damaged: its SHA-256 is not the one it was written with. Copy it again.`);
  }
  return {info, labels, model};
}

export class Detector {
  /**
   * @param {object} litert what `loadRuntime` gave.
   * @param {ArrayBuffer} content of a .tflite file.
   * @param {string} name how errors call it.
   * @throws {TinyDetError} as `readModel`, or the runtime refuses the file.
   */
  static async load(litert, content, name) {
    const {info, labels, model} = await readModel(content, name);
    try {
      const compiled = await litert.loadAndCompile(model, {
        accelerator: 'wasm',
        cpuOptions: {numThreads: globalThis.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1},
      });
      const detector = new Detector(litert, compiled, info, labels);
      // The first run takes several times as long, and shows whether the runtime has all operators.
      await detector.detect(new OffscreenCanvas(1, 1), 1, 1, 1);
      return detector;
    } catch (error) {
      throw new TinyDetError(`LiteRT.js does not take ${name} (${reason(error)}).`);
    }
  }

  /** Use `Detector.load`. */
  constructor(litert, compiled, info, labels) {
    this.info = info;
    this.labels = labels;
    this._litert = litert;
    this._compiled = compiled;
    const canvas = new OffscreenCanvas(info.input_size, info.input_size);
    // Its pixels are read after every drawing: on the CPU that costs nothing.
    this._context = canvas.getContext('2d', {alpha: false, willReadFrequently: true});
    this._context.imageSmoothingQuality = 'high'; // antialiased, as training shrinks pictures
    this._pixels = new Uint8Array(3 * info.input_size ** 2);
  }

  /**
   * Finds objects.
   *
   * @param {CanvasImageSource} source upright picture.
   * @param {number} width of it in pixels.
   * @param {number} height of it in pixels.
   * @param {number} threshold least score.
   * @returns {Promise<{detections: {box: number[], score: number, classId: number, label: string}[],
   *     networkMs: number, totalMs: number}>} best first; a box is x1, y1, x2, y2 in the source's pixels.
   */
  async detect(source, width, height, threshold) {
    const start = performance.now();
    this._fillPixels(source);
    const size = this.info.input_size;
    const inferring = performance.now();
    const outputs = await this._run(new this._litert.Tensor(this._pixels, [1, size, size, 3]));
    const inferred = performance.now();
    const found = this.info.postprocess === 'tasks' ?
      fromTasks(outputs, width, height, threshold) :
      fromHost(outputs, width / size, height / size, width, height, this.info.nms, threshold);
    const detections = found
      .filter(({box: [x1, y1, x2, y2]}) => x2 > x1 && y2 > y1)
      .map((one) => ({...one, label: this.labels[one.classId]}));
    return {detections, networkMs: inferred - inferring, totalMs: performance.now() - start};
  }

  /** Frees the runtime's memory, which the browser's garbage collection does not see. */
  delete() {
    this._compiled.delete();
  }

  _fillPixels(source) {
    const size = this.info.input_size;
    this._context.fillStyle = BACKGROUND;
    this._context.fillRect(0, 0, size, size);
    this._context.drawImage(source, 0, 0, size, size);
    const {data} = this._context.getImageData(0, 0, size, size);
    for (let from = 0, to = 0; from < data.length; from += 4) {
      this._pixels[to++] = data[from];
      this._pixels[to++] = data[from + 1];
      this._pixels[to++] = data[from + 2];
    }
  }

  /** Name -> flat array of each output. */
  async _run(image) {
    let tensors = {};
    try {
      tensors = await this._compiled.run({image});
      return Object.fromEntries(
        Object.entries(tensors).map(([name, tensor]) => [name, tensor.toTypedArray().slice()]));
    } finally {
      image.delete();
      for (const tensor of Object.values(tensors)) tensor.delete();
    }
  }
}

/** `--postprocess tasks`: soft-NMS is in the file; boxes are ymin, xmin, ymax, xmax as shares of the picture. */
function fromTasks({location, category, score, count}, width, height, threshold) {
  const found = [];
  for (let row = 0; row < count[0]; row++) {
    if (score[row] < threshold) continue;
    const [y1, x1, y2, x2] = location.slice(4 * row, 4 * row + 4);
    found.push({box: [x1 * width, y1 * height, x2 * width, y2 * height], score: score[row], classId: category[row]});
  }
  return found;
}

/** `--postprocess host`: boxes [P, 4] are inclusive pixels of the S x S input (the last pixel belongs to the box). */
function fromHost(outputs, scaleX, scaleY, width, height, nms, threshold) {
  const scales = [scaleX, scaleY, scaleX, scaleY];
  const boxes = outputs.boxes.map((value, index) => value * scales[index % 4]);
  return softNms(boxes, outputs.class_probs, nms, threshold).map(({proposal, ...one}) => {
    const [x1, y1, x2, y2] = boxes.subarray(4 * proposal, 4 * proposal + 4);
    const box = [
      clamp(x1, 0, width), clamp(y1, 0, height), clamp(x2 + 1, 0, width), clamp(y2 + 1, 0, height)];
    return {...one, box};
  });
}

/**
 * The paper's linear soft-NMS, each class for itself, as tinydet_lite.postprocess: the best remaining box is taken, and
 * the scores of those of its class that overlap it by more than `iou_threshold` are multiplied by 1 - IoU.
 *
 * @param {Float32Array} boxes [P, 4], inclusive pixels.
 * @param {Float32Array} probs [P, C + 1], background first.
 * @param {{score_threshold: number, iou_threshold: number, min_score: number, max_detections: number}} nms
 * @param {number} threshold least score in the end. Scores only fall, so nothing under it can matter to what is above.
 * @returns {{proposal: number, classId: number, score: number}[]} best first.
 */
export function softNms(boxes, probs, nms, threshold) {
  const proposals = boxes.length / 4;
  const columns = probs.length / proposals;
  const least = Math.max(threshold, nms.min_score);
  let left = [];
  for (let proposal = 0; proposal < proposals; proposal++) {
    for (let classId = 0; classId < columns - 1; classId++) {
      const score = probs[proposal * columns + classId + 1];
      if (score > nms.score_threshold && score >= least) left.push({proposal, classId, score});
    }
  }
  const taken = [];
  while (left.length > 0 && taken.length < nms.max_detections) {
    // Of equal scores the first: lower proposal, then lower class.
    const best = left.reduce((a, b) => (b.score > a.score ? b : a));
    taken.push(best);
    left = left.filter((one) => one !== best);
    for (const other of left) {
      if (other.classId !== best.classId) continue;
      const overlap = inclusiveIou(boxes, best.proposal, other.proposal);
      if (overlap > nms.iou_threshold) other.score *= 1 - overlap;
    }
    left = left.filter((one) => one.score >= least);
  }
  return taken;
}

function inclusiveIou(boxes, a, b) {
  const [i, j] = [4 * a, 4 * b];
  const width = Math.min(boxes[i + 2], boxes[j + 2]) - Math.max(boxes[i], boxes[j]) + 1;
  const height = Math.min(boxes[i + 3], boxes[j + 3]) - Math.max(boxes[i + 1], boxes[j + 1]) + 1;
  if (width <= 0 || height <= 0) return 0;
  const area = (k) => (boxes[k + 2] - boxes[k] + 1) * (boxes[k + 3] - boxes[k + 1] + 1);
  return (width * height) / (area(i) + area(j) - width * height);
}

/** The texts in the uncompressed ZIP behind the flatbuffer; a RangeError or undefined members if there is none. */
function storedMembers(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = bytes.length - 22; // the archive's end record, which is written without a comment
  if (view.getUint32(end, true) !== 0x06054b50) throw new RangeError('no archive');
  const members = new Map();
  let entry = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left--) {
    const [nameLength, extraLength, commentLength] = [28, 30, 32].map((at) => view.getUint16(entry + at, true));
    const local = view.getUint32(entry + 42, true);
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    const text = (from, length) => new TextDecoder('utf-8', {fatal: true}).decode(bytes.subarray(from, from + length));
    members.set(text(entry + 46, nameLength), text(start, view.getUint32(entry + 24, true)));
    entry += 46 + nameLength + extraLength + commentLength;
  }
  return members;
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

function hex(buffer) {
  return Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** An error's first line; LiteRT.js throws strings, too. */
function reason(error) {
  return String(error?.message ?? error).split('\n')[0].slice(0, 200);
}
