// k6 with the event-stream module, built at the versions that go.mod pins.
package main

import (
	"go.k6.io/k6/cmd"

	_ "traffic-dam/k6/sse"
)

func main() {
	cmd.Execute()
}
