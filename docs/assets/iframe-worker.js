/* The search of the site where its pages are opened as files: browsers start no worker from file://, so that the
   worker's script runs in a hidden frame instead. Over http this does nothing. */
if (location.protocol === "file:") {
  class FrameWorker extends EventTarget {
    constructor(address) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inner = frame.contentWindow;
      this.inner = inner;
      this.waiting = [];
      inner.postMessage = (data) => this.receive(data);
      inner.importScripts = (...scripts) => scripts.reduce((all, one) => all.then(() => this.load(one)), Promise.resolve());
      this.load(new URL(address, location.href).href).then(() => {
        const waiting = this.waiting;
        this.waiting = null;
        waiting.forEach((data) => this.postMessage(data));
      });
    }

    load(address) {
      return new Promise((done, failed) => {
        const script = this.inner.document.createElement("script");
        script.src = address;
        script.onload = done;
        script.onerror = failed;
        this.inner.document.body.append(script);
      });
    }

    receive(data) {
      const event = new MessageEvent("message", { data });
      this.dispatchEvent(event);
      if (this.onmessage) this.onmessage(event);
    }

    postMessage(data) {
      if (this.waiting) this.waiting.push(data);
      else this.inner.dispatchEvent(new this.inner.MessageEvent("message", { data }));
    }

    terminate() {
      this.inner.frameElement.remove();
    }
  }
  window.Worker = window.IFrameWorker = FrameWorker;
}
