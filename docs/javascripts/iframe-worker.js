// Browsers start no worker from a file that was opened from disk. There, search runs in a hidden frame instead.
if (location.protocol === "file:") {
  class IFrameWorker extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inner = frame.contentDocument;
      const self = frame.contentWindow;
      inner.open();
      // What a worker's script expects around it: postMessage to its owner, and scripts that are loaded in turn.
      self.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      self.importScripts = (...urls) =>
        urls.reduce(
          (before, source) =>
            before.then(
              () =>
                new Promise((done, failed) => {
                  const script = inner.createElement("script");
                  Object.assign(script, { src: source, onload: done, onerror: failed });
                  inner.body.append(script);
                }),
            ),
          Promise.resolve(),
        );
      inner.write("<body></body>");
      inner.close();
      const script = inner.createElement("script");
      script.src = url;
      script.onerror = () => this.dispatchEvent(new Event("error"));
      this.waiting = [];
      script.onload = () => {
        for (const data of this.waiting.splice(0)) this.deliver(data);
        this.waiting = null;
      };
      inner.body.append(script);
      this.frame = frame;
    }
    deliver(data) {
      const self = this.frame.contentWindow;
      self.dispatchEvent(new self.MessageEvent("message", { data }));
    }
    postMessage(data) {
      if (this.waiting) this.waiting.push(data);
      else this.deliver(data);
    }
    terminate() {
      this.frame.remove();
    }
  }
  window.IFrameWorker = window.Worker = IFrameWorker;
}
