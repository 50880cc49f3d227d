package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// imageSpec is what an image holds and how it starts.
type imageSpec struct {
	files      tree
	user       string
	entrypoint []string
	cmd        []string
	env        []string
	labels     map[string]string
	// level of gzip.
	level int
}

// write builds the image and writes it as a docker-archive, which replaces the
// output in one step.
func (s imageSpec) write(out outputFlags) error {
	image, err := s.build(out.arch)
	if err != nil {
		return err
	}
	tag, err := qualifiedTag(out.tag)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out.output), 0o750); err != nil {
		return fmt.Errorf("make the output directory: %w", err)
	}
	temporary := out.output + ".tmp"
	err = tarball.WriteToFile(temporary, tag, image)
	if err == nil {
		err = os.Rename(temporary, out.output)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", out.output, err), os.RemoveAll(temporary))
	}
	return nil
}

// build makes the image: one layer, no times.
func (s imageSpec) build(arch string) (v1.Image, error) {
	var archive bytes.Buffer
	if err := s.files.writeTar(&archive); err != nil {
		return nil, fmt.Errorf("archive the files: %w", err)
	}
	layer, err := tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil },
		tarball.WithCompressionLevel(s.level), tarball.WithCompressedCaching)
	if err != nil {
		return nil, fmt.Errorf("compress the layer: %w", err)
	}
	image, err := mutate.Append(empty.Image, mutate.Addendum{
		Layer:   layer,
		History: v1.History{CreatedBy: "hack/image", Created: v1.Time{Time: time.Unix(0, 0).UTC()}},
	})
	if err != nil {
		return nil, fmt.Errorf("append the layer: %w", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	config = config.DeepCopy()
	config.Architecture = arch
	config.OS = "linux"
	config.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	config.Config = v1.Config{
		User:       s.user,
		Entrypoint: s.entrypoint,
		Cmd:        s.cmd,
		Env:        s.env,
		Labels:     s.labels,
		WorkingDir: "/",
	}
	return mutate.ConfigFile(image, config)
}

// qualifiedTag writes a short reference out, since containerd looks images up
// by the full one: docker.io/juicedata/mount:ce-v1.4.2.
func qualifiedTag(tag string) (name.Tag, error) {
	short, err := name.NewTag(tag, name.WithDefaultTag(""))
	if err != nil {
		return name.Tag{}, fmt.Errorf("parse the reference %q: %w", tag, err)
	}
	registry := short.RegistryStr()
	if registry == name.DefaultRegistry {
		registry = "docker.io"
	}
	return name.NewTag(registry + "/" + short.RepositoryStr() + ":" + short.TagStr())
}

// Levels of compression: images of the local cluster are not worth the time
// that a small release image is.
const (
	releaseLevel = gzip.DefaultCompression
	localLevel   = gzip.BestSpeed
)
