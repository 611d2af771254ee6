package sse

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.k6.io/k6/lib"
	"go.k6.io/k6/metrics"
)

// longestBody bounds how much is kept of an answer that is not a stream: refusals and errors are short.
const longestBody = 64 << 10

// event is what a script's callback gets.
type event struct {
	Data string `js:"data"`
	Kind string `js:"kind"`
	// At is the milliseconds from the start of the request to the event's last byte.
	At float64 `js:"at"`
}

// answer is what `post` returns.
type answer struct {
	// Status is 0 when no head came.
	Status int `js:"status"`
	// Headers has lower-case names; of a repeated field the first value.
	Headers map[string]string `js:"headers"`
	// Body is that of an answer which is not a stream, its first 64 KiB.
	Body string `js:"body"`
	// Error says what broke, on the way to the head or in the middle of the answer; empty when nothing did.
	Error string `js:"error"`
	// Events counts the stream's events.
	Events int `js:"events"`
	// Last is the data of the last event.
	Last string `js:"last"`
	// Head and End are the milliseconds from the start of the request to the answer's head and to its end.
	Head float64 `js:"head"`
	End  float64 `js:"end"`
	// GaveUp says that the request was dropped because its patience had run out.
	GaveUp bool `js:"gaveUp"`
	// Start is when the request began, by the clock that never steps, in milliseconds since this process did; Wall is
	// the same moment by the clock that people read. Their difference moves only when somebody sets the clock.
	Start float64 `js:"start"`
	Wall  int64   `js:"wall"`
}

// processStart is what Start counts from.
var processStart = time.Now()

// errImpatient ends a request that brought nothing its script was waiting for in time.
var errImpatient = errors.New("nothing came within the patience of the client")

// outcome tells an answer, whatever it says, from an exception that the script itself threw.
type outcome struct {
	answer *answer
	thrown error
}

// exchange sends one request and reads its answer to the end. It uses the virtual user's own transport, so that
// connections are kept per user and k6 counts the bytes.
func exchange(
	parent context.Context, state *lib.State, url, body string, settings params, onEvent func(event) (bool, error),
) outcome {
	ctx, cancel := context.WithTimeout(parent, settings.timeout)
	defer cancel()
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	got := &answer{Headers: map[string]string{}}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return outcome{answer: got, thrown: err}
	}
	request.Header.Set("Accept", "text/event-stream")
	request.Header.Set("Content-Type", "application/json")
	if agent := state.Options.UserAgent; agent.Valid {
		request.Header.Set("User-Agent", agent.String)
	}
	for name, value := range settings.headers {
		request.Header.Set(name, value)
	}

	start := time.Now()
	got.Start = float64(start.Sub(processStart)) / float64(time.Millisecond)
	got.Wall = start.UnixMilli()
	if settings.patience > 0 {
		waiting := time.AfterFunc(settings.patience, func() { giveUp(errImpatient) })
		defer waiting.Stop()
		inner := onEvent
		onEvent = func(event event) (bool, error) {
			more, err := inner(event)
			if !more {
				waiting.Stop()
			}
			return more, err
		}
	}
	since := func() float64 { return float64(time.Since(start)) / float64(time.Millisecond) }
	err = read(state.Transport, request, got, since, onEvent)
	got.End = since()

	var thrown *scriptError
	if errors.As(err, &thrown) {
		return outcome{answer: got, thrown: thrown.error}
	}
	if err != nil {
		got.Error = err.Error()
		got.GaveUp = errors.Is(context.Cause(ctx), errImpatient)
	}
	report(parent, state, settings.tags, got, start)
	return outcome{answer: got}
}

// scriptError marks an exception from the callback, which is the script's to see and no fault of the server's.
type scriptError struct{ error }

func read(
	transport http.RoundTripper, request *http.Request, got *answer, since func() float64,
	onEvent func(event) (bool, error),
) (err error) {
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	got.Head = since()
	got.Status = response.StatusCode
	for name, values := range response.Header {
		got.Headers[strings.ToLower(name)] = values[0]
	}
	if kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type")); kind != "text/event-stream" {
		text, err := io.ReadAll(io.LimitReader(response.Body, longestBody))
		got.Body = string(text)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, response.Body)
		return err
	}
	stream := newEvents(response.Body)
	wanted := true
	for {
		data, kind, err := stream.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		got.Events++
		got.Last = data
		if !wanted {
			continue
		}
		if wanted, err = onEvent(event{Data: data, Kind: kind, At: since()}); err != nil {
			return &scriptError{err}
		}
	}
}

// report adds the request to k6's own `http_reqs` and `http_req_duration`, so that its usual outputs know of it.
func report(ctx context.Context, state *lib.State, extra map[string]string, got *answer, start time.Time) {
	current := state.Tags.GetCurrentValues()
	tags := current.Tags.With("status", strconv.Itoa(got.Status)).WithTagsFromMap(extra)
	sample := func(metric *metrics.Metric, value float64) metrics.Sample {
		return metrics.Sample{
			TimeSeries: metrics.TimeSeries{Metric: metric, Tags: tags},
			Time:       start,
			Metadata:   current.Metadata,
			Value:      value,
		}
	}
	metrics.PushIfNotDone(ctx, state.Samples, metrics.Samples{
		sample(state.BuiltinMetrics.HTTPReqs, 1),
		sample(state.BuiltinMetrics.HTTPReqDuration, got.End),
	})
}
