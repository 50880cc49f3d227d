package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// imageSizes are what a registry keeps of each of our images: the compressed
// layers and the configuration.
func (b *bench) imageSizes(context.Context) error {
	for _, service := range []string{"controller", "node", "mountmgr", "dashboard"} {
		size, err := imageSize(filepath.Join(b.tree.Root, "dist", "images", service+".tar"))
		if err != nil {
			return fmt.Errorf("measure image of %s: %w", service, err)
		}
		b.add("image."+service, float64(size)/(1<<20), "MiB", 1)
	}
	return nil
}

func imageSize(archive string) (int64, error) {
	file, err := os.Open(archive)
	if err != nil {
		return 0, err
	}
	defer func() { _ = file.Close() }()
	sizes := make(map[string]int64)
	var manifest []struct {
		Config string
		Layers []string
	}
	for entries := tar.NewReader(file); ; {
		header, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, err
		}
		sizes[header.Name] = header.Size
		if header.Name == "manifest.json" {
			if err := json.NewDecoder(entries).Decode(&manifest); err != nil {
				return 0, err
			}
		}
	}
	if len(manifest) != 1 {
		return 0, fmt.Errorf("it holds %d images", len(manifest))
	}
	total := sizes[manifest[0].Config]
	for _, layer := range manifest[0].Layers {
		if filepath.Ext(layer) != ".gz" {
			return 0, fmt.Errorf("layer %s is not compressed", layer)
		}
		total += sizes[layer]
	}
	return total, nil
}
