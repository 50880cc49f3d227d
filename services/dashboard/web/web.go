// Package web holds the dashboard's page: plain HTML, CSS and JavaScript modules
// that need no build.
package web

import (
	"embed"
	"net/http"
)

//go:embed index.html *.css *.js *.svg
var files embed.FS

// Handler serves the page. Everything comes from this server: the policy lets
// the page load and call nothing else.
func Handler() http.Handler {
	page := http.FileServerFS(files)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.Error(w, "only GET", http.StatusMethodNotAllowed)
			return
		}
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "+
			"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		// Files of another release must not mix with this one's.
		h.Set("Cache-Control", "no-cache")
		page.ServeHTTP(w, r)
	})
}
