// Runs in the browser's audio thread: the microphone's sound as 16-bit samples at 24 kHz, a twentieth of a second at a time.
const RATE = 24000;
const PIECE = RATE / 20;

class Microphone extends AudioWorkletProcessor {
  constructor() {
    super();
    this.step = sampleRate / RATE;
    this.at = 0;
    this.last = 0;
    this.piece = new Int16Array(PIECE);
    this.filled = 0;
  }

  process([[input]]) {
    if (!input) return true;
    // Each output is the mean of the inputs that it stands for, or lies between two where the rate grows.
    while (this.at < input.length) {
      const end = Math.min(input.length, Math.max(this.at + this.step, this.at + 1));
      let sum = 0;
      let count = 0;
      for (let n = Math.floor(this.at); n < end; n += 1, count += 1) sum += input[n];
      const value = Math.max(-1, Math.min(1, count ? sum / count : this.last));
      this.last = value;
      this.piece[this.filled] = Math.round(value * 32767);
      this.filled += 1;
      if (this.filled === PIECE) {
        this.port.postMessage(this.piece.slice());
        this.filled = 0;
      }
      this.at += this.step;
    }
    this.at -= input.length;
    return true;
  }
}

registerProcessor("microphone", Microphone);
