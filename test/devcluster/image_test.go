package devcluster

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestImageWrite(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("#!"), 0o755); err != nil {
		t.Fatal(err)
	}
	image := Image{
		Name:       "example.invalid/x:v1",
		Files:      map[string]string{"/usr/bin/program": program},
		Links:      map[string]string{"usr/bin/sh": "program"},
		Dirs:       []string{"/tmp"},
		Entrypoint: []string{"/usr/bin/program"},
	}
	var first, second bytes.Buffer
	if err := image.Write(&first); err != nil {
		t.Fatal(err)
	}
	if err := image.Write(&second); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same image gives different bytes")
	}

	files := untar(t, first.Bytes())
	var manifest []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil {
		t.Fatal(err)
	}
	if len(manifest) != 1 || manifest[0].RepoTags[0] != image.Name {
		t.Fatalf("manifest is %+v", manifest)
	}
	var config struct {
		Config struct{ Entrypoint []string }
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	if err := json.Unmarshal(files[manifest[0].Config], &config); err != nil {
		t.Fatal(err)
	}
	layer := files[manifest[0].Layers[0]]
	sum := sha256.Sum256(layer)
	if got := config.RootFS.DiffIDs[0]; got != "sha256:"+hex.EncodeToString(sum[:]) {
		t.Errorf("the layer's digest is given as %s", got)
	}
	if config.Config.Entrypoint[0] != "/usr/bin/program" {
		t.Errorf("entrypoint is %v", config.Config.Entrypoint)
	}
	content := untar(t, layer)
	for _, name := range []string{"tmp/", "usr/", "usr/bin/", "usr/bin/program", "usr/bin/sh"} {
		if _, ok := content[name]; !ok {
			t.Errorf("the layer lacks %s", name)
		}
	}
}

func untar(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[header.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}
