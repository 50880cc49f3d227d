package cachedir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
)

const uuid = "8d0ebb36-91ab-4d84-8d5c-1b0f6f0e5f3a"

func put(t *testing.T, elements ...string) string {
	t.Helper()
	path := filepath.Join(elements...)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("block"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

func TestOnlyCachedBlocksOfTheFileSystemGo(t *testing.T) {
	host := t.TempDir()
	cache := filepath.Join(host, "var", "jfsCache")
	var blocks []string
	for i := range 600 {
		blocks = append(blocks, put(t, cache, uuid, "raw", "chunks", "0", fmt.Sprint(i%3), fmt.Sprintf("%d_0_4", i)))
	}
	staged := put(t, cache, uuid, "raw", "rawstaging", "chunks", "0", "0", "9_0_4")
	direct := put(t, cache, uuid, "rawstaging", "chunks", "0", "0", "9_0_4")
	other := put(t, cache, "other", "raw", "chunks", "0", "0", "1_0_4")
	outside := put(t, host, "precious", "file")
	if err := os.Symlink(filepath.Dir(outside), filepath.Join(cache, uuid, "raw", "chunks", "link")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := (Roots{Host: host}).RemoveChunks(t.Context(), "/var/jfsCache", uuid); err != nil {
			t.Fatal(err)
		}
	}
	for _, kept := range []string{staged, direct, other, outside} {
		if !exists(t, kept) {
			t.Errorf("%s is gone", kept)
		}
	}
	for _, block := range append(blocks, filepath.Join(cache, uuid, "raw", "chunks", "link")) {
		if exists(t, block) {
			t.Errorf("%s is there", block)
		}
	}
}

func TestTheCacheDirectoryMayBeALinkOfTheHost(t *testing.T) {
	host := t.TempDir()
	block := put(t, host, "disk", "cache", uuid, "raw", "chunks", "0", "0", "1_0_4")
	if err := os.MkdirAll(filepath.Join(host, "var"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/disk/cache", filepath.Join(host, "var", "jfsCache")); err != nil {
		t.Fatal(err)
	}
	if err := (Roots{Host: host}).RemoveChunks(t.Context(), "/var/jfsCache", uuid); err != nil {
		t.Fatal(err)
	}
	if exists(t, block) {
		t.Error("the block is there")
	}
}

func TestLinksOfAMountPodLeadNowhere(t *testing.T) {
	host := t.TempDir()
	block := put(t, host, "victim", "raw", "chunks", "0", "0", "1_0_4")
	cache := filepath.Join(host, "cache")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../victim", filepath.Join(cache, uuid)); err != nil {
		t.Fatal(err)
	}
	if err := (Roots{Host: host}).RemoveChunks(t.Context(), "/cache", uuid); err == nil {
		t.Error("a symbolic link was followed")
	}
	for _, wrong := range []string{"", "..", "../victim", ".", "a/b", "-x"} {
		if err := (Roots{Host: host}).RemoveChunks(t.Context(), "/cache", wrong); !errdefs.IsInvalidArgument(err) {
			t.Errorf("uuid %q: %v", wrong, err)
		}
	}
	if !exists(t, block) {
		t.Error("the block is gone")
	}
}

func TestAStoppedRemovalGoesOn(t *testing.T) {
	host := t.TempDir()
	block := put(t, host, "cache", uuid, "raw", "chunks", "0", "0", "1_0_4")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (Roots{Host: host}).RemoveChunks(ended, "/cache", uuid); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
	if err := (Roots{Host: host}).RemoveChunks(t.Context(), "/cache", uuid); err != nil || exists(t, block) {
		t.Errorf("the next one: %v, the block is there: %t", err, exists(t, block))
	}
	if err := (Roots{Host: host}).RemoveChunks(t.Context(), "/nowhere", uuid); err != nil {
		t.Errorf("no cache directory: %v", err)
	}
}
