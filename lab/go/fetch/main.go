// fetch prints what an HTTP address answers. The wget of a static busybox finds no names: its C library loads its resolver from files.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

func main() {
	if len(os.Args) != 2 {
		fail("usage: fetch URL")
	}
	answer, err := (&http.Client{Timeout: 5 * time.Second}).Get(os.Args[1])
	if err != nil {
		fail(err)
	}
	defer answer.Body.Close()
	if _, err := io.Copy(os.Stdout, answer.Body); err != nil {
		fail(err)
	}
	if answer.StatusCode >= 400 {
		fail(answer.Status)
	}
}

func fail(why any) {
	fmt.Fprintln(os.Stderr, why)
	os.Exit(1)
}
