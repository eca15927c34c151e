// Heartbeats in Go, one statement each: net/http and pgx.
//
//	heartbeat STATEMENT_FILE, with DATABASE_URL, JWT_SECRET and PORT in the environment
//
// It answers a heartbeat of a session as the service does. A verified token is kept.
package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log"
	"math"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

const (
	connections    = 16
	requestTimeout = 10 * time.Second
)

type beat struct {
	ProfileID string  `json:"profile_id"`
	TitleID   string  `json:"title_id"`
	SessionID *string `json:"session_id"`
	IsPaused  bool    `json:"is_paused"`
}

type verdict struct {
	SessionID        *string  `json:"session_id"`
	Enforcement      string   `json:"enforcement"`
	RemainingMinutes *float64 `json:"remaining_minutes"`
	UsedMinutes      float64  `json:"used_minutes"`
	IsEducational    bool     `json:"is_educational"`
}

type account struct {
	id      string
	expires time.Time
}

type server struct {
	pool      *pgxpool.Pool
	statement string
	secret    []byte
	accounts  sync.Map // by token
}

func main() {
	statement, err := os.ReadFile(os.Args[1])
	fatal(err)
	config, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	fatal(err)
	config.MaxConns = connections
	config.ConnConfig.RuntimeParams["plan_cache_mode"] = "force_generic_plan"
	config.ConnConfig.RuntimeParams["jit"] = "off"
	pool, err := pgxpool.ConnectConfig(context.Background(), config)
	fatal(err)
	s := &server{pool: pool, statement: string(statement), secret: []byte(os.Getenv("JWT_SECRET"))}
	http.HandleFunc("/api/v1/viewing-time/heartbeat", s.heartbeat)
	http.HandleFunc("/health/live", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}

func (s *server) heartbeat(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	accountID, ok := s.verified(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	if !ok {
		refuse(w, http.StatusUnauthorized, "Could not validate credentials")
		return
	}
	var b beat
	if err := json.NewDecoder(r.Body).Decode(&b); err != nil {
		refuse(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	result, err := s.record(ctx, accountID, &b)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		refuse(w, http.StatusNotFound, "Session not found")
	case err != nil:
		log.Print(err)
		refuse(w, http.StatusServiceUnavailable, "Service unavailable")
	default:
		answer(w, http.StatusOK, result)
	}
}

// verified returns the account of a token, whose signature is checked the first time only.
func (s *server) verified(token string) (string, bool) {
	if known, ok := s.accounts.Load(token); ok {
		return known.(account).id, time.Now().Before(known.(account).expires)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", false
	}
	var header struct {
		Alg string `json:"alg"`
	}
	var claims struct {
		Sub string  `json:"sub"`
		Exp float64 `json:"exp"`
	}
	if decoded(parts[0], &header) != nil || decoded(parts[1], &claims) != nil || header.Alg != "HS256" {
		return "", false
	}
	mac := hmac.New(sha256.New, s.secret)
	mac.Write([]byte(parts[0] + "." + parts[1]))
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil || !hmac.Equal(signature, mac.Sum(nil)) {
		return "", false
	}
	expires := time.Unix(int64(claims.Exp), 0)
	s.accounts.Store(token, account{claims.Sub, expires})
	return claims.Sub, time.Now().Before(expires)
}

// record writes a heartbeat in a statement of its own and decides by the committed balance.
func (s *server) record(ctx context.Context, accountID string, b *beat) (*verdict, error) {
	var isEducational, isChild, isUnlimited bool
	var limitMinutes, usedSeconds *int
	row := s.pool.QueryRow(
		ctx, s.statement, accountID, b.ProfileID, b.TitleID, b.SessionID, b.IsPaused, timeOrderedID(),
	)
	err := row.Scan(&isEducational, &isChild, &limitMinutes, &usedSeconds, &isUnlimited)
	if err != nil {
		return nil, err
	}
	v := &verdict{SessionID: b.SessionID, Enforcement: "allowed", IsEducational: isEducational}
	if !isChild {
		return v, nil
	}
	v.UsedMinutes = minutes(*usedSeconds)
	if limitMinutes == nil || isUnlimited {
		return v, nil
	}
	left := 60**limitMinutes - *usedSeconds
	switch {
	case left <= 0:
		v.Enforcement, left = "blocked", 0
	case left <= 5*60:
		v.Enforcement = "warning_5"
	case left <= 15*60:
		v.Enforcement = "warning_15"
	}
	remaining := minutes(left)
	v.RemainingMinutes = &remaining
	return v, nil
}

func minutes(seconds int) float64 {
	return math.Round(float64(seconds)/60*100) / 100
}

// timeOrderedID returns a UUID of version 7.
func timeOrderedID() (id [16]byte) {
	for n, milliseconds := 5, time.Now().UnixMilli(); n >= 0; n, milliseconds = n-1, milliseconds>>8 {
		id[n] = byte(milliseconds)
	}
	_, err := rand.Read(id[6:])
	fatal(err)
	id[6], id[8] = id[6]&0x0f|0x70, id[8]&0x3f|0x80
	return id
}

func decoded(part string, into interface{}) error {
	text, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

func refuse(w http.ResponseWriter, status int, sentence string) {
	answer(w, status, map[string]string{"detail": sentence})
}

func answer(w http.ResponseWriter, status int, body interface{}) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		log.Print(err)
	}
}

func fatal(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
