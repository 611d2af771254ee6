// Package sse gives k6 scripts the module `k6/x/sse`: one call sends a request and reads the answer as an event
// stream, event by event, each with the time at which it arrived.
//
// k6's own HTTP module hands an answer over when it is complete, which hides the only figure that matters to the
// reader of a stream: when its first word came. Here a script sees every event as it comes:
//
//	const answer = sse.post(url, body, { headers: {...}, timeout: '60s' }, (event) => !isContent(event.data));
//
// The callback returns `true` while it wants to see more. After that the rest of the stream is still read and
// counted to its end, but no longer passed to JavaScript, which would cost more than reading it. A request may be given
// a `timeout`, to its end, and a `patience`, until the callback has seen what it wanted.
package sse

import (
	"fmt"
	"time"

	"github.com/grafana/sobek"
	"go.k6.io/k6/js/common"
	"go.k6.io/k6/js/modules"
	"go.k6.io/k6/lib/types"
)

func init() {
	modules.Register("k6/x/sse", new(root))
}

type root struct{}

func (*root) NewModuleInstance(vu modules.VU) modules.Instance {
	return &instance{vu: vu}
}

type instance struct {
	vu modules.VU
}

func (i *instance) Exports() modules.Exports {
	return modules.Exports{Default: map[string]any{"post": i.post}}
}

// defaultTimeout ends a request, stream included, that was given no timeout of its own.
const defaultTimeout = 60 * time.Second

// params is the third argument of `post`.
type params struct {
	headers map[string]string
	tags    map[string]string
	timeout time.Duration
	// patience ends a request whose callback still wants more after it; zero is for ever.
	patience time.Duration
}

func (i *instance) post(url, body string, given sobek.Value, onEvent sobek.Callable) (*answer, error) {
	state := i.vu.State()
	if state == nil {
		return nil, common.NewInitContextError("sse.post works only inside a scenario")
	}
	settings, err := i.readParams(given)
	if err != nil {
		return nil, err
	}
	runtime := i.vu.Runtime()
	got := exchange(i.vu.Context(), state, url, body, settings, func(event event) (bool, error) {
		if onEvent == nil {
			return false, nil
		}
		more, err := onEvent(sobek.Undefined(), runtime.ToValue(event))
		return err == nil && more.ToBoolean(), err
	})
	return got.answer, got.thrown
}

func (i *instance) readParams(given sobek.Value) (params, error) {
	settings := params{timeout: defaultTimeout}
	if common.IsNullish(given) {
		return settings, nil
	}
	runtime := i.vu.Runtime()
	object := given.ToObject(runtime)
	for _, name := range object.Keys() {
		value := object.Get(name)
		var err error
		switch name {
		case "headers":
			err = runtime.ExportTo(value, &settings.headers)
		case "tags":
			err = runtime.ExportTo(value, &settings.tags)
		case "timeout":
			settings.timeout, err = types.GetDurationValue(value.Export())
		case "patience":
			settings.patience, err = types.GetDurationValue(value.Export())
		default:
			err = fmt.Errorf("is not known; known are headers, tags, timeout and patience")
		}
		if err != nil {
			return settings, fmt.Errorf("sse.post: parameter %q: %w", name, err)
		}
	}
	return settings, nil
}
