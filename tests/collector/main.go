// Command collector is the OpenTelemetry Collector with the components that deploy/compose/collector/collector.yaml
// names: a stand-in for the image, which has them and some hundred more.
package main

import (
	"log"

	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage"
	"github.com/open-telemetry/opentelemetry-collector-contrib/receiver/filelogreceiver"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/envprovider"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/otlphttpexporter"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/memorylimiterprocessor"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/service/telemetry/otelconftelemetry"
)

// components are those of the collector's settings, by their names there.
func components() (otelcol.Factories, error) {
	files, disk := filelogreceiver.NewFactory(), filestorage.NewFactory()
	memory, otlp := memorylimiterprocessor.NewFactory(), otlphttpexporter.NewFactory()
	return otelcol.Factories{
		Extensions: map[component.Type]extension.Factory{disk.Type(): disk},
		Receivers:  map[component.Type]receiver.Factory{files.Type(): files},
		Processors: map[component.Type]processor.Factory{memory.Type(): memory},
		Exporters:  map[component.Type]exporter.Factory{otlp.Type(): otlp},
		Telemetry:  otelconftelemetry.NewFactory(),
	}, nil
}

func main() {
	command := otelcol.NewCommand(otelcol.CollectorSettings{
		BuildInfo: component.BuildInfo{Command: "collector", Version: "stand-in"},
		Factories: components,
		ConfigProviderSettings: otelcol.ConfigProviderSettings{ResolverSettings: confmap.ResolverSettings{
			ProviderFactories: []confmap.ProviderFactory{fileprovider.NewFactory(), envprovider.NewFactory()},
		}},
	})
	if err := command.Execute(); err != nil {
		log.Fatal(err)
	}
}
