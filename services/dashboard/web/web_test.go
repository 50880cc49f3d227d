package web_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/juicefs-csi/driver/services/dashboard/web"
)

func TestPage(t *testing.T) {
	t.Parallel()
	for path, kind := range map[string]string{
		"/": "text/html", "/app.js": "text/javascript", "/style.css": "text/css", "/logo.svg": "image/svg+xml",
	} {
		response := httptest.NewRecorder()
		web.Handler().ServeHTTP(response, httptest.NewRequest(http.MethodGet, path, http.NoBody))
		if response.Code != http.StatusOK || !strings.HasPrefix(response.Header().Get("Content-Type"), kind) {
			t.Errorf("%s: %d %s", path, response.Code, response.Header().Get("Content-Type"))
		}
		if policy := response.Header().Get("Content-Security-Policy"); !strings.Contains(policy, "default-src 'none'") {
			t.Errorf("%s: policy %q", path, policy)
		}
	}
}

// Every word that the page asks for exists in every language.
func TestWordsAreComplete(t *testing.T) {
	t.Parallel()
	words := read(t, "i18n.js")
	start, end := strings.Index(words, "  zh: {"), strings.Index(words, "let language")
	key := regexp.MustCompile(`(?m)^    (\w+): "`)
	english, chinese := all(key, words[:start]), all(key, words[start:end])
	if !slices.Equal(english, chinese) {
		t.Errorf("the languages have different words:\n%v\n%v", english, chinese)
	}
	used := append(all(regexp.MustCompile(`data-(?:text|label|placeholder)="(\w+)"`), read(t, "index.html")),
		all(regexp.MustCompile(`\bt\("(\w+)"`), read(t, "app.js"))...)
	used = append(used, all(regexp.MustCompile(`(?m)^      (\w+): \{ text:`), read(t, "app.js"))...)
	if len(used) < 30 {
		t.Fatalf("only %d words found in the page", len(used))
	}
	for _, word := range used {
		if !slices.Contains(english, word) {
			t.Errorf("word %q is missing", word)
		}
	}
}

// The policy forbids inline scripts and styles, so the page has none.
func TestPageKeepsItsPolicy(t *testing.T) {
	t.Parallel()
	page := read(t, "index.html")
	for _, forbidden := range []string{"<style", " style=", " onclick=", "http://", "https://"} {
		if strings.Contains(page, forbidden) {
			t.Errorf("index.html holds %q", forbidden)
		}
	}
	for _, forbidden := range []string{"innerHTML", "insertAdjacentHTML", "eval("} {
		if strings.Contains(read(t, "app.js"), forbidden) {
			t.Errorf("app.js uses %s", forbidden)
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func all(pattern *regexp.Regexp, text string) []string {
	var words []string
	for _, match := range pattern.FindAllStringSubmatch(text, -1) {
		words = append(words, match[1])
	}
	slices.Sort(words)
	return slices.Compact(words)
}
