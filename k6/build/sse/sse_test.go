package sse

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/grafana/sobek"
	"go.k6.io/k6/js/modulestest"
	"go.k6.io/k6/lib"
	"go.k6.io/k6/metrics"
)

func TestEventsAreSplitWhereverTheBytesAre(t *testing.T) {
	stream := ": hello\n\ndata: one\n\nevent: delta\r\ndata:two\r\ndata: lines\r\n\r\nid: 7\n\ndata: cut off"
	for name, source := range map[string]io.Reader{
		"whole":     strings.NewReader(stream),
		"by a byte": iotest.OneByteReader(strings.NewReader(stream)),
	} {
		t.Run(name, func(t *testing.T) {
			split := newEvents(source)
			for _, want := range [][2]string{{"one", ""}, {"two\nlines", "delta"}} {
				data, kind, err := split.next()
				if err != nil || data != want[0] || kind != want[1] {
					t.Fatalf("got %q %q %v, want %q", data, kind, err, want)
				}
			}
			if data, _, err := split.next(); err != io.EOF {
				t.Fatalf("an event without its end was passed on: %q, %v", data, err)
			}
		})
	}
}

func TestALineWithoutEndIsAnError(t *testing.T) {
	if _, _, err := newEvents(strings.NewReader("data: " + strings.Repeat("x", longestLine))).next(); err == io.EOF {
		t.Fatal("the line was taken for the end of the stream")
	}
}

// serve answers as the path asks and waits on `hold` between the first content and the rest.
func serve(t *testing.T, hold <-chan struct{}) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			w.Header().Set("Retry-After", "3")
			http.Error(w, `{"error":{}}`, http.StatusTooManyRequests)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		for _, data := range []string{"role", "content"} {
			_, _ = fmt.Fprintf(w, "data: %s\n\n", data)
			_ = http.NewResponseController(w).Flush()
		}
		<-hold
		if r.URL.Path == "/break" {
			panic(http.ErrAbortHandler)
		}
		_, _ = fmt.Fprint(w, "data: more\n\ndata: [DONE]\n\n")
	}))
	t.Cleanup(server.Close)
	return server
}

func runScript(t *testing.T, script string, globals map[string]any) sobek.Value {
	t.Helper()
	runtime := modulestest.NewRuntime(t)
	registry := metrics.NewRegistry()
	samples := make(chan metrics.SampleContainer, 16)
	runtime.MoveToVUContext(&lib.State{
		BuiltinMetrics: metrics.RegisterBuiltinMetrics(registry),
		Samples:        samples,
		Tags:           lib.NewVUStateTags(registry.RootTagSet()),
		Transport:      http.DefaultTransport,
	})
	js := runtime.VU.Runtime()
	exports := new(root).NewModuleInstance(runtime.VU).Exports()
	if err := js.Set("sse", exports.Default); err != nil {
		t.Fatal(err)
	}
	for name, value := range globals {
		if err := js.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	value, err := js.RunString(script)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func TestEventsReachTheScriptBeforeTheStreamEnds(t *testing.T) {
	hold := make(chan struct{})
	server := serve(t, hold)
	// Were the events held back until the end, the server would wait for `release` for ever and the call time out.
	got := runScript(t, `
		const seen = [];
		const answer = sse.post(url + '/stream', '{}', { timeout: '20s' }, (event) => {
			seen.push(event.data);
			if (event.data !== 'content') return true;
			release();
			return false;
		});
		[answer.status, answer.error, answer.events, answer.last, seen.join('+'), answer.head <= answer.end].join('|')
	`, map[string]any{"url": server.URL, "release": func() { close(hold) }})
	if want := "200||4|[DONE]|role+content|true"; got.String() != want {
		t.Fatalf("got %s, want %s", got, want)
	}
}

func TestABrokenStreamAndARefusalAreToldApart(t *testing.T) {
	hold := make(chan struct{})
	close(hold)
	server := serve(t, hold)
	got := runScript(t, `
		const broken = sse.post(url + '/break', '{}');
		const refused = sse.post(url + '/refuse', '{}', { headers: { 'x-user-id': 'a' } });
		[broken.status, broken.error !== '', broken.last,
			refused.status, refused.error, refused.headers['retry-after'], refused.body.trim()].join('|')
	`, map[string]any{"url": server.URL})
	if want := `200|true|content|429||3|{"error":{}}`; got.String() != want {
		t.Fatalf("got %s, want %s", got, want)
	}
}

func TestASilentServerEndsWithTheTimeout(t *testing.T) {
	hold := make(chan struct{})
	server := serve(t, hold)
	t.Cleanup(func() { close(hold) })
	began := time.Now()
	got := runScript(t, `sse.post(url, '{}', { timeout: '50ms' }).error`, map[string]any{"url": server.URL})
	if !strings.Contains(got.String(), "deadline exceeded") || time.Since(began) > 15*time.Second {
		t.Fatalf("got %q after %v", got, time.Since(began))
	}
}

func TestPatienceEndsWithWhatTheScriptWaitedFor(t *testing.T) {
	hold := make(chan struct{})
	server := serve(t, hold)
	time.AfterFunc(300*time.Millisecond, func() { close(hold) })
	got := runScript(t, `
		const answer = sse.post(url, '{}', { patience: '100ms' }, (event) => event.data !== 'content');
		[answer.gaveUp, answer.last, answer.end > 100, answer.wall > 0 && answer.start >= 0].join('|')
	`, map[string]any{"url": server.URL})
	if want := `false|[DONE]|true|true`; got.String() != want {
		t.Fatalf("got %s, want %s", got, want)
	}
}

func TestAnImpatientClientGivesUp(t *testing.T) {
	hold := make(chan struct{})
	server := serve(t, hold)
	t.Cleanup(func() { close(hold) })
	got := runScript(t, `
		const answer = sse.post(url, '{}', { patience: '50ms' }, () => true);
		[answer.gaveUp, answer.error !== '', answer.status, answer.events].join('|')
	`, map[string]any{"url": server.URL})
	if want := `true|true|200|2`; got.String() != want {
		t.Fatalf("got %s, want %s", got, want)
	}
}
